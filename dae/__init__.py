"""Convolutional denoising autoencoders: noise, models, training, scoring and the gate that promotes a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dae.inference.denoiser import ImageDenoiser


def load(reference: str = "models:/dae@champion") -> ImageDenoiser:
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
    >>> restored = load("models:/dae@champion")(images)  # doctest: +SKIP
    """
    from dae import runtime

    runtime.configure()  # before Keras is imported
    from dae.inference import files

    return files.load_denoiser(reference)
