"""Drift: the MSE of a registered version as it is now beside the one its run recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dae import storage
from dae.config.schema import NoiseConfig
from dae.data import datasets, noisy_datasets
from dae.evaluation import bootstrap, scores
from dae.evaluation.metrics import Values
from dae.networks.predict import Denoiser, make_denoiser
from dae.schemas import EIGHT_BIT, FrozenModel, ImageSet
from dae.tracking import models, runs
from dae.tracking.client import TrackingError
from dae.tracking.models import ModelError
from dae.tracking.runs import read_run, read_text_artifact

STREAM = "staleness"
"""Of the noise. No training draws from it, so that the noise is new to the model whatever the seed is."""


class Drift(FrozenModel):
    """The MSE found beside the recorded one, each the mean of those of the kinds of noise by their configured shares.

    Attributes
    ----------
    low, high : float
        Ends of the bootstrap interval of ``mse / reference - 1`` over images.
    count : int
        Number of images.
    """

    mse: float
    reference: float
    low: float
    high: float
    count: int

    @property
    def rise(self) -> float:
        """By how much of the recorded MSE the one found is above it."""
        return float(bootstrap.relative_rise(self.mse, self.reference))


def compare_with_recorded(
    errors: Values, drawn: NDArray[np.uint8], noise: NoiseConfig, recorded: Mapping[str, float], confidence: float
) -> Drift | None:
    """Compare errors with recorded ones, kind by kind, so that it does not matter which image happened to get which kind.

    A kind that was not recorded, or got fewer than two images, is left out, of what is found as of what was recorded.

    Parameters
    ----------
    errors : ndarray of float64, shape (N,)
        Mean squared error of each image, finite.
    drawn : ndarray of uint8, shape (N,)
        Index into `NoiseConfig.shares` of what each image got.
    noise : NoiseConfig
        Has the shares.
    recorded : mapping
        From the name of a kind to its recorded MSE.
    confidence : float
        Of the interval, in (0, 1).

    Returns
    -------
    Drift or None
        None where no kind is left.
    """
    groups: list[Values] = []
    shares: list[float] = []
    references: list[float] = []
    for index, (kind, share) in enumerate(noise.shares().items()):
        group = errors[drawn == index]
        # A run of before has one figure for a kind, whether its noise was clipped or not.
        reference = recorded.get(kind, recorded.get(kind.removesuffix(EIGHT_BIT), math.nan))
        if len(group) >= 2 and math.isfinite(reference):
            groups.append(group)
            shares.append(share)
            references.append(reference)
    if not groups:
        return None
    weights = [share / sum(shares) for share in shares]
    reference = float(np.dot(weights, references))
    low, high = bootstrap.weighted_interval(groups, weights, reference, confidence)
    mse = float(np.dot(weights, [group.mean() for group in groups]))
    return Drift(mse=mse, reference=reference, low=low, high=high, count=sum(map(len, groups)))


class ScoredVersion:
    """A registered version that is scored anew, and what its run recorded.

    Parameters
    ----------
    reference : str
        As `models.locate_model` takes it.
    work : Path
        A folder for images and noise; what is put into it is the caller's to delete.

    Raises
    ------
    ModelError, TrackingError
        If there is no such model, or its run did not record its configuration, images and scores.
    """

    def __init__(self, reference: str, work: Path) -> None:
        located = models.locate_model(reference)
        self.uri, self.run_id, self.work = located.uri, located.run_id, work
        self.config = runs.read_config(self.run_id)
        self.recorded_mse = _recorded_mse(self.run_id)
        shape = runs.read_image_shape(self.run_id)
        if shape is None:
            raise TrackingError(f"run {self.run_id} must have recorded its images, and has not")
        self.shape = shape

    def held_out(self) -> ImageSet | None:
        """Return its validation images, from the cache or read again; None if its source gives others by now.

        Raises
        ------
        DataError
            If the source can no longer be read.
        """
        run = read_run(self.run_id)
        digest = run.digests.get("data_digest")
        images = datasets.find_stored(digest) if digest else None
        images = images or datasets.ingest(self.config.data, self.work)
        wanted = run.pixels.get("validation")
        return images.validation if wanted in (None, images.validation.sha256) else None

    def was_trained_on(self, watched: str) -> bool:
        """Tell whether the images in a folder, as they are now, were added to those of its source when it was trained."""
        config = self.config.data
        if (
            config.extra_source is None
            or storage.resolve_path(config.extra_source).resolve() != storage.resolve_path(watched).resolve()
        ):
            return False
        return datasets.compute_digest(config) == read_run(self.run_id).digests.get("data_digest")

    def measure(self, images: ImageSet, seed: int, confidence: float) -> Drift | None:
        """Score it on images under its own noise, drawn anew; None if they are too few.

        Raises
        ------
        ModelError
            If it does not load, or what it makes of an image is not finite.
        """
        noise = self.config.noise.model_copy(update={"seed": seed})
        noisy = noisy_datasets.freeze_noise(images, noise, STREAM, self.work)
        errors = scores.compute_errors(self._denoise, noisy)
        if not np.isfinite(errors).all():
            raise ModelError(f"what {self.uri} makes of some images is not finite")
        return compare_with_recorded(errors, np.load(noisy.kinds_path), noise, self.recorded_mse, confidence)

    @cached_property
    def _denoise(self) -> Denoiser:
        return make_denoiser(models.load_model(self.uri))


def _recorded_mse(run_id: str) -> dict[str, float]:
    """Return the validation MSE of each kind of noise that a run recorded; one that no image got has none."""
    text = read_text_artifact(run_id, "scores.json")
    if text is None:
        raise TrackingError(f"run {run_id} holds no scores.json")
    per_kind = json.loads(text)["validation"]["per_kind"]
    return {kind: found["mse"] for kind, found in per_kind.items() if found["mse"] is not None}
