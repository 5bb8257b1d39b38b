"""Convolutional denoising autoencoders: trained, scored, promoted by a gate, and applied to images.

The names in ``__all__`` are the public interface for programs, beside the command `dae`, the configuration and the flows. The
packages below are internal: they may change in any release. `dae.extensions` has the tables of what can be added to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from dae.inference.denoiser import ImageDenoiser

    __version__: str

__all__ = ["__version__", "denoise", "load"]
DISTRIBUTION = "dae-denoising"
"""What the package is called on a package index, where ``dae`` is another project."""
CHAMPION = "models:/dae@champion"


def load(reference: str = CHAMPION) -> ImageDenoiser:
    """Return a stored model as a function of images: arrays in, arrays of the same shape and type out.

    Parameters
    ----------
    reference : str
        ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, a version number of ``dae``, a run id or a ``.keras`` file.

    Returns
    -------
    ImageDenoiser
        Takes ``(H, W)``, ``(H, W, C)``, ``(N, H, W)`` or ``(N, H, W, C)``, uint8, uint16 or floats; of three axes the last is
        channels if it has at most 4 elements.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be read.

    Examples
    --------
    >>> restore = load("models:/dae@champion")  # doctest: +SKIP
    >>> restored = [restore(image) for image in images]  # doctest: +SKIP
    """
    from dae import runtime

    runtime.configure()  # before Keras is imported
    from dae.inference import files

    return files.load_denoiser(reference)


def denoise(images: np.ndarray, model: str = CHAMPION) -> np.ndarray:
    """Return images restored by a stored model, which is loaded for this call; `load` keeps one for many calls.

    Parameters
    ----------
    images : ndarray, shape (H, W), (H, W, C), (N, H, W) or (N, H, W, C)
        uint8, uint16 or floats.
    model : str
        As `load` takes it.

    Returns
    -------
    ndarray
        Of the same shape and type.

    Raises
    ------
    ModelError
        If there is no such model, or it cannot be read.
    ValueError
        On another shape or type, or a value that is not finite.

    Examples
    --------
    >>> restored = denoise(image)  # doctest: +SKIP
    """
    return load(model)(images)


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib.metadata

    return importlib.metadata.version(DISTRIBUTION)
