"""The small frozen records that travel between tasks: paths, digests, ids and scores, never an array or a live model."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable pydantic model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def not_bool(value: Any) -> Any:
    """Refuse true and false where a number is due: Python takes them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  (what pydantic turns into its own error)
    return value


class ImageSet(Frozen):
    """One split of clean images, stored as a uint8 memory map.

    Attributes
    ----------
    path : str
        The ``.npy`` file, uint8, shape ``(count, height, width, channels)``.
    sha256 : str
        Digest over every byte of the pixels (the header excluded).
    """

    path: str
    sha256: str
    count: int
    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(height, width, channels)``."""
        return (self.height, self.width, self.channels)


class ImageSets(Frozen):
    """What ingest makes: the three splits of one image source."""

    source: str
    digest: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet


class NoisySet(Frozen):
    """A split with its noise drawn once and stored.

    Attributes
    ----------
    clean : ImageSet
        The images the noise was added to.
    path : str
        The noisy images, a float32 ``.npy`` of the same shape as the clean ones.
    kinds_path : str
        A uint8 ``.npy`` of shape ``(count,)``: the index into `kinds` of the noise each image got.
    sha256 : str
        Digest over every byte of the noisy pixels and of the kinds.
    """

    clean: ImageSet
    path: str
    kinds_path: str
    kinds: tuple[str, ...]
    sha256: str


class NoisySets(Frozen):
    """What corrupt makes. `train` is None where training noise is fresh every epoch."""

    train: NoisySet | None
    validation: NoisySet
    test: NoisySet


class TrainedOn(Frozen):
    """What a model was trained on, stored with it, so that it can be told when other images are put to it.

    Attributes
    ----------
    image_shape : tuple of int
        ``(H, W, C)`` of the training images.
    noise_sigma : tuple of float
        Lowest and highest standard deviation of the noise, as estimated from the frozen noisy validation images.
    intensity : tuple of float
        Lowest and highest intensity of the clean images, in [0, 1].
    unclipped : bool
        Whether the noise leaves [0, 1], which that of an image file never does.
    """

    image_shape: tuple[int, int, int]
    noise_sigma: tuple[float, float]
    intensity: tuple[float, float]
    unclipped: bool = False


class TrainedModel(Frozen):
    """The model that was logged, by its exact URI, and how its training went."""

    run_id: str
    model_id: str
    model_uri: str
    epochs: int
    best_epoch: int
    best_val_mse: float
    parameters: int
    seconds: float


class Quality(Frozen):
    """Mean quality of a group of restored images: MSE in squared intensity, PSNR in decibels, SSIM in [-1, 1]."""

    mse: float
    psnr: float
    ssim: float
    count: int


class SplitScores(Frozen):
    """Quality on one frozen noisy set, pooled and per noise kind, of the model and of doing nothing."""

    pooled: Quality
    pooled_nothing: Quality
    per_kind: dict[str, Quality]
    per_kind_nothing: dict[str, Quality]


class Scores(Frozen):
    """What evaluate found for one logged model."""

    model_uri: str
    validation: SplitScores
    test: SplitScores
    images_per_second: float
