"""Evaluate: the quality of a model and of the noisy input, on the frozen noisy sets, pooled and per kind of noise."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dae.data import datasets, noisy_datasets
from dae.evaluation import clean_input, metrics
from dae.evaluation.metrics import Values
from dae.networks.predict import Denoiser
from dae.schemas import Images, NoisySet, NoisySets, Quality, Scores, SplitScores

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PerImageScores:
    """The scores of every image of a set.

    Attributes
    ----------
    kinds : ndarray of uint8, shape (N,)
        Index of the kind of noise of each image.
    restored, noisy : dict of str to ndarray of float64, shape (N,)
        The values of each metric: of the restored images, and of the noisy input clipped to [0, 1].
    seconds : float
        How long the model took.
    """

    kinds: NDArray[np.uint8]
    restored: dict[str, Values]
    noisy: dict[str, Values]
    seconds: float

    @property
    def mse(self) -> Values:
        """The mean squared error of each restored image."""
        return self.restored["mse"]


@dataclass(frozen=True)
class Examples:
    """Images for the pictures: clean, noisy and denoised, shape ``(n, H, W, C)`` each, with kind and error."""

    rows: NDArray[np.intp]
    kinds: list[str]
    clean: Images
    noisy: Images
    denoised: Images
    mse: Values


def evaluate_model(denoise: Denoiser, sets: NoisySets, model_uri: str) -> tuple[Scores, PerImageScores]:
    """Score a model on the frozen validation and test sets, after checking their digests.

    Parameters
    ----------
    denoise : callable
        Noisy images in, restored images out.
    sets : NoisySets
    model_uri : str
        Identity of the model, kept with its scores.

    Returns
    -------
    scores : Scores
    per_image : PerImageScores
        Of the test set.

    Raises
    ------
    DataError
        If a stored set is not what was drawn.
    """
    logger.info("evaluate: %s on the frozen validation and test sets", model_uri)
    measured: dict[str, PerImageScores] = {}
    for noisy in (sets.validation, sets.test):
        if noisy.path not in measured:
            noisy_datasets.verify_noisy_set(noisy)
            measured[noisy.path] = score_images(denoise, noisy)
    validation, test = (measured[noisy.path] for noisy in (sets.validation, sets.test))
    scores = Scores(
        model_uri=model_uri,
        validation=summarise(validation, sets.validation.kinds),
        test=summarise(test, sets.test.kinds),
        images_per_second=len(test.mse) / test.seconds,
        clean_input=clean_input.measure_clean_input(denoise, sets.validation),
    )
    return scores, test


def score_images(
    denoise: Denoiser,
    noisy: NoisySet,
    rows: NDArray[np.intp] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PerImageScores:
    """Score every image of a set, or those in some rows of it, a block at a time; `clock` returns seconds."""
    rows = np.arange(noisy.clean.count) if rows is None else rows
    parts = []
    for _, part in datasets.iterate_blocks(len(rows), noisy.clean.shape):
        damaged, clean, kinds = noisy_datasets.read_block(noisy, rows[part])
        started = clock()
        restored = denoise(damaged)
        seconds = clock() - started
        noisy_input = metrics.compute_all(np.clip(damaged, 0.0, 1.0), clean)
        parts.append(PerImageScores(kinds, metrics.compute_all(restored, clean), noisy_input, seconds))
    return join_scores(parts)


def compute_errors(denoise: Denoiser, noisy: NoisySet) -> Values:
    """Return the mean squared error of every image of a set, shape ``(N,)``."""
    errors = []
    for _, rows in datasets.iterate_blocks(noisy.clean.count, noisy.clean.shape):
        damaged, clean, _ = noisy_datasets.read_block(noisy, rows)
        errors.append(metrics.mse(denoise(damaged), clean))
    return np.concatenate(errors)


def join_scores(parts: Sequence[PerImageScores]) -> PerImageScores:
    """Return the scores of several groups of images as one."""

    def join(columns: Sequence[dict[str, Values]]) -> dict[str, Values]:
        return {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}

    return PerImageScores(
        np.concatenate([part.kinds for part in parts]),
        join([part.restored for part in parts]),
        join([part.noisy for part in parts]),
        sum(part.seconds for part in parts),
    )


def summarise(images: PerImageScores, kinds: Sequence[str]) -> SplitScores:
    """Return the means over all images and over those of each kind; NaN for a kind that no image has."""

    def per_kind(values: dict[str, Values]) -> dict[str, Quality]:
        rows = {kind: images.kinds == index for index, kind in enumerate(kinds)}
        return {
            kind: metrics.mean_quality({name: column[chosen] for name, column in values.items()})
            for kind, chosen in rows.items()
        }

    return SplitScores(
        pooled=metrics.mean_quality(images.restored),
        pooled_nothing=metrics.mean_quality(images.noisy),
        per_kind=per_kind(images.restored),
        per_kind_nothing=per_kind(images.noisy),
    )


def make_examples(denoise: Denoiser, noisy: NoisySet, rows: NDArray[np.intp]) -> Examples:
    """Return some images of a set with what the model makes of them."""
    damaged, clean, drawn = noisy_datasets.read_block(noisy, rows)
    restored = denoise(damaged)
    return Examples(rows, [noisy.kinds[kind] for kind in drawn], clean, damaged, restored, metrics.mse(restored, clean))


def find_first_of_kind(images: PerImageScores, kind: int, count: int) -> NDArray[np.intp]:
    """Return the rows of the first images that got a kind of noise: the same in every run on the same noise."""
    return np.flatnonzero(images.kinds == kind)[:count]


def find_worst(images: PerImageScores, count: int) -> NDArray[np.intp]:
    """Return the rows of the images of the largest error, the worst first."""
    return np.argsort(-images.mse, kind="stable")[:count]
