"""Drift: the present MSE of a registered version compared with the MSE that its run recorded."""

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
from dae.tracking.runs import RecordedRun, read_run, read_text_artifact

STREAM = "staleness"
"""Name of the random stream of the noise. No training uses it, so the noise is new to the model for any seed."""


class Drift(FrozenModel):
    """The present and the recorded MSE. Each is the mean over the kinds of noise, weighted by their configured shares.

    Attributes
    ----------
    low, high : float
        Bounds of the bootstrap interval of ``mse / reference - 1`` over images.
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
        """The relative rise above the recorded MSE: ``mse / reference - 1``."""
        return float(bootstrap.relative_rise(self.mse, self.reference))


def compare_with_recorded(
    errors: Values, drawn: NDArray[np.uint8], noise: NoiseConfig, recorded: Mapping[str, float], confidence: float
) -> Drift | None:
    """Compare errors with the recorded ones for each kind of noise, so the random choice of kinds does not matter.

    A kind without a recorded MSE, or with fewer than two images, is left out on both sides.

    Parameters
    ----------
    errors : ndarray of float64, shape (N,)
        Mean squared error of each image, finite.
    drawn : ndarray of uint8, shape (N,)
        Index into `NoiseConfig.shares` of the kind that each image got.
    noise : NoiseConfig
        The configured noise, with its shares.
    recorded : mapping
        From the name of a kind to its recorded MSE.
    confidence : float
        Confidence level of the interval, in (0, 1).

    Returns
    -------
    Drift or None
        None if no kind remains.
    """
    groups: list[Values] = []
    shares: list[float] = []
    references: list[float] = []
    for index, (kind, share) in enumerate(noise.shares().items()):
        group = errors[drawn == index]
        # An older run has one value for a kind, whether its noise was clipped or not.
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
    """A registered version that is scored again, with the records of its run.

    Parameters
    ----------
    reference : str
        A model, as `models.locate_model` accepts it.
    work : Path
        A folder for images and noise. The caller deletes it.

    Raises
    ------
    ModelError, TrackingError
        If there is no such model, or its run lacks the record of its configuration, images or scores.
    """

    def __init__(self, reference: str, work: Path) -> None:
        located = models.locate_model(reference)
        self.uri, self.run_id, self.work = located.uri, located.run_id, work
        self.config = runs.read_config(self.run_id)
        self.recorded_mse = _recorded_mse(self.run_id)
        shape = runs.read_image_shape(self.run_id)
        if shape is None:
            raise TrackingError(f"run {self.run_id} must have recorded its images, but it has not")
        self.shape = shape

    def held_out(self) -> ImageSet | None:
        """Return its validation images, from the cache or read again; None if the source has changed.

        Raises
        ------
        DataError
            If the source can no longer be read.
        """
        run = self._run
        digest = run.digests.get("data_digest")
        images = datasets.find_stored(digest) if digest else None
        images = images or datasets.ingest(self.config.data, self.work)
        recorded = run.pixels.get("validation")
        return images.validation if recorded in (None, images.validation.sha256) else None

    def was_trained_on(self, watched: str) -> bool:
        """Tell whether its training added exactly the images that are in a folder now."""
        config = self.config.data
        if (
            config.extra_source is None
            or storage.resolve_path(config.extra_source).resolve() != storage.resolve_path(watched).resolve()
        ):
            return False
        return datasets.compute_digest(config) == self._run.digests.get("data_digest")

    def measure(self, images: ImageSet, seed: int, confidence: float) -> Drift | None:
        """Score it on images with newly drawn noise of its configuration; None if there are too few images.

        Raises
        ------
        ModelError
            If it does not load, or its output is not finite.
        """
        noise = self.config.noise.model_copy(update={"seed": seed})
        noisy = noisy_datasets.freeze_noise(images, noise, STREAM, self.work)
        errors = scores.compute_errors(self._denoise, noisy)
        if not np.isfinite(errors).all():
            raise ModelError(f"what {self.uri} makes of some images is not finite")
        return compare_with_recorded(errors, np.load(noisy.kinds_path), noise, self.recorded_mse, confidence)

    @cached_property
    def _run(self) -> RecordedRun:
        return read_run(self.run_id)

    @cached_property
    def _denoise(self) -> Denoiser:
        return make_denoiser(models.load_model(self.uri))


def _recorded_mse(run_id: str) -> dict[str, float]:
    """Return the recorded validation MSE of each kind of noise; a kind without images is left out."""
    text = read_text_artifact(run_id, "scores.json")
    if text is None:
        raise TrackingError(f"run {run_id} holds no scores.json")
    per_kind = json.loads(text)["validation"]["per_kind"]
    return {kind: quality["mse"] for kind, quality in per_kind.items() if quality["mse"] is not None}
