"""Classical denoising, method by method: each is a frozen configuration that is also the function that applies it.

A method maps noisy images, float32 of shape ``(N, H, W, C)``, to restored ones of the same shape in [0, 1], each by itself.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from dae.schemas import FrozenModel, Images

CLIP = (False, True)
Setting = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Method(FrozenModel, ABC):
    """A classical method. A subclass with a line in `dae.extensions.BASELINES` is a baseline everywhere.

    With `clip` it is given the noisy image clipped to [0, 1]; its result is always clipped.

    Attributes
    ----------
    package : str or None
        The package it needs beyond those that are always installed.
    note : str
        What to know about that package.
    gate_images : int
        How many validation images it is tuned on at most when the gate compares a model with it.
    """

    package: ClassVar[str | None] = None
    note: ClassVar[str] = ""
    gate_images: ClassVar[int] = 200

    method: str
    clip: bool = False

    def __call__(self, noisy: Images) -> Images:
        """Return restored images for noisy ones, both float32 of shape ``(N, H, W, C)``."""
        images = np.clip(noisy, 0, 1) if self.clip else noisy
        restored = [np.reshape(self.restore(image), image.shape) for image in images]
        return np.clip(np.stack(restored), 0, 1, dtype=np.float32) if restored else noisy.copy()

    @classmethod
    @abstractmethod
    def grid(cls) -> tuple[Method, ...]:
        """Return the settings that are tried when it is tuned; a single one where there is nothing to tune."""

    @abstractmethod
    def restore(self, image: Images) -> Any:
        """Return one image restored, ``(H, W, C)`` in and out; a single channel may be dropped."""


class NoisyInput(Method):
    """The noisy image as it came, clipped to [0, 1]."""

    method: Literal["noisy_input"] = "noisy_input"
    clip: Literal[True] = True

    @classmethod
    def grid(cls) -> tuple[Method, ...]:  # noqa: D102
        return (cls(),)

    def restore(self, image: Images) -> Any:  # noqa: D102
        return image


class Median(Method):
    """The median over a square, or a plus, of `size` pixels a side, each channel by itself: ``scipy.ndimage``."""

    method: Literal["median"] = "median"
    size: Annotated[int, Field(ge=3)] = 3
    plus: bool = False

    @classmethod
    def grid(cls) -> tuple[Method, ...]:  # noqa: D102
        return tuple(cls(size=size, plus=plus) for size, plus in product((3, 5, 7), (False, True)))

    def restore(self, image: Images) -> Any:  # noqa: D102
        from scipy.ndimage import median_filter

        window = np.ones((self.size, self.size), bool)
        if self.plus:
            window[:] = False
            window[self.size // 2] = window[:, self.size // 2] = True
        return median_filter(image, footprint=window[..., None], mode="reflect")


class TotalVariation(Method):
    """Total variation (Rudin, Osher and Fatemi, 1992; Chambolle, 2004): ``skimage.restoration.denoise_tv_chambolle``."""

    method: Literal["tv"] = "tv"
    weight: Setting = 0.1

    @classmethod
    def grid(cls) -> tuple[Method, ...]:  # noqa: D102
        weights = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
        return tuple(cls(weight=weight, clip=clip) for weight, clip in product(weights, CLIP))

    def restore(self, image: Images) -> Any:  # noqa: D102
        from skimage.restoration import denoise_tv_chambolle

        return denoise_tv_chambolle(image, weight=self.weight, channel_axis=-1)


class NonLocalMeans(Method):
    """Non-local means (Buades, Coll and Morel, 2005): ``skimage.restoration.denoise_nl_means``, its fast mode."""

    method: Literal["nlm"] = "nlm"
    h: Setting = 0.1
    patch_size: Annotated[int, Field(ge=1)] = 5
    patch_distance: Annotated[int, Field(ge=1)] = 6

    @classmethod
    def grid(cls) -> tuple[Method, ...]:  # noqa: D102
        strengths, sizes = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4), (3, 5, 7)
        return tuple(cls(h=h, patch_size=size, clip=clip) for h, size, clip in product(strengths, sizes, CLIP))

    def restore(self, image: Images) -> Any:  # noqa: D102
        from skimage.restoration import denoise_nl_means

        sizes = {"patch_size": self.patch_size, "patch_distance": self.patch_distance}
        return denoise_nl_means(image, h=self.h, fast_mode=True, channel_axis=-1, **sizes)


class Wavelet(Method):
    """Wavelet shrinkage with thresholds by BayesShrink (Chang, Yu and Vetterli, 2000): ``skimage.restoration.denoise_wavelet``.

    It is the mean over four shifts along the diagonal (cycle spinning, Coifman and Donoho, 1995), which is better than one.
    """

    package: ClassVar[str | None] = "pywt"

    method: Literal["wavelet"] = "wavelet"
    sigma: Setting = 0.1
    wavelet: str = "db2"
    levels: Annotated[int, Field(ge=1)] = 2

    @classmethod
    def grid(cls) -> tuple[Method, ...]:  # noqa: D102
        settings = product((0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45), ("db2", "sym4"), (1, 2, 3), CLIP)
        return tuple(
            cls(sigma=sigma, wavelet=wavelet, levels=levels, clip=clip) for sigma, wavelet, levels, clip in settings
        )

    def restore(self, image: Images) -> Any:  # noqa: D102
        return np.mean([np.roll(self._once(np.roll(image, -s, (0, 1))), s, (0, 1)) for s in range(4)], axis=0)

    def _once(self, image: Images) -> Any:
        from skimage.restoration import denoise_wavelet

        options = {"wavelet": self.wavelet, "wavelet_levels": self.levels, "channel_axis": -1, "rescale_sigma": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # many levels for a small image: validation decides
            return denoise_wavelet(image, self.sigma, **options)


class BM3D(Method):
    """BM3D (Dabov et al., 2007; Mäkinen, Azzari and Foi, 2020): the package bm3d, which is for non-profit use alone."""

    package: ClassVar[str | None] = "bm3d"
    note: ClassVar[str] = "which is for non-profit use alone"
    gate_images: ClassVar[int] = 24

    method: Literal["bm3d"] = "bm3d"
    sigma: Setting = 0.1

    @classmethod
    def grid(cls) -> tuple[Method, ...]:  # noqa: D102
        sigmas = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4)
        return tuple(cls(sigma=sigma, clip=clip) for sigma, clip in product(sigmas, CLIP))

    def restore(self, image: Images) -> Any:  # noqa: D102
        import bm3d

        if image.shape[2] == 3:
            return bm3d.bm3d_rgb(image, self.sigma)
        return bm3d.bm3d(image[..., 0], self.sigma)
