"""Quality at fixed strengths of noise: what a model makes of noise weaker, as strong and stronger than it was trained on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dae import random_streams
from dae.config.schema import ConfigError, NoiseConfig, PipelineConfig
from dae.data import datasets
from dae.evaluation import figures, metrics
from dae.evaluation.metrics import Values
from dae.evaluation.tables import Row, kind_label
from dae.networks import predict
from dae.networks.predict import Denoiser
from dae.noise.kinds import NoiseKind, corrupt
from dae.noise.strength import StrengthRange
from dae.schemas import Images, ImageSet
from dae.tracking import models
from dae.tracking.run_logging import log_figure, log_text
from dae.tracking.runs import read_config

NOISY_INPUT = "noisy input"

logger = logging.getLogger(__name__)


def compare_robustness(uris: Sequence[str], split: str, count: int) -> tuple[pd.DataFrame, Figure]:
    """Measure logged models side by side, and log the table and the figure to the first one's run.

    The images, the kinds of noise, its seed and the range that counts as inside are those of the first model's run.

    Parameters
    ----------
    uris : sequence of str
        As `models.locate_model` takes them, such as ``models:/dae@champion``; the models of runs of this pipeline.
    split : {"validation", "test"}
    count : int
        Use only the first images.

    Returns
    -------
    table : DataFrame
        As `sweep_strengths` makes it, with a column ``trained``: whether the strength is ``weaker`` or ``stronger`` than the
        first model was trained on, or ``inside`` of its range; empty where it was trained on a single strength.
    figure : matplotlib.figure.Figure

    Raises
    ------
    ModelError, TrackingError
        If there is no such model, or it has no configuration.
    ConfigError
        If the models do not have the same held-out images: one may have been trained on another's.
    """
    locations = {uri.removeprefix("models:/"): models.locate_model(uri) for uri in uris}
    runs = {name: model.run_id for name, model in locations.items()}
    configs = {name: read_config(run) for name, run in runs.items()}
    images = require_same_images(configs, split)
    denoisers = {name: predict.make_denoiser(models.load_model(model.uri)) for name, model in locations.items()}
    trained = {name: configured_strengths(config.noise) for name, config in configs.items()}
    first = next(iter(locations))
    logger.info("strengths: %s on %d %s images", ", ".join(configs), min(count, images.count), split)
    table = sweep_strengths(denoisers, images, configs[first].noise, split, count)
    points = zip(table["kind"], table["strength"], strict=True)
    sweeps = {kind.name: kind.sweep for kind in configs[first].noise.kinds}
    table.insert(3, "trained", [classify_strength(trained[first][kind], sweeps[kind], value) for kind, value in points])
    figure = figures.plot_robustness(table, trained)
    log_figure(runs[first], figure, "strengths")
    log_text(runs[first], table.to_csv(index=False), "strengths.csv")
    return table, figure


def require_same_images(configs: Mapping[str, PipelineConfig], split: str) -> ImageSet:
    """Return the images that the models of these configurations, by name, all hold out as a split.

    Raises
    ------
    ConfigError
        If they are not the same images for all: some may have been trained on.
    """
    image_sets: dict[str, ImageSet] = {
        name: getattr(datasets.ingest(config.data), split) for name, config in configs.items()
    }
    first, images = next(iter(image_sets.items()))
    for name, other in image_sets.items():
        if other.sha256 != images.sha256:
            raise ConfigError(f"models must have the same {split} images; {name} has others than {first}")
    return images


def sweep_strengths(
    denoisers: Mapping[str, Denoiser], images: ImageSet, noise: NoiseConfig, split: str, count: int
) -> pd.DataFrame:
    """Score denoisers, and the noisy input, at each strength of the sweep of each kind in a mix.

    Parameters
    ----------
    denoisers : mapping of str to callable
    images : ImageSet
        Clean images; each gets every kind at every strength, in turn.
    noise : NoiseConfig
        The kinds, their other parameters, the seed and the share of images as in files; its strengths are not used.
    split : str
        Name of the stream the noise is drawn from; it is the same stream at every strength and for every denoiser.
    count : int
        Use only the first images.

    Returns
    -------
    DataFrame
        A row for each kind, strength and denoiser, with columns ``kind``, ``parameter``, ``strength``, ``restored_by``, ``mse``
        and ``psnr``: means over the images.
    """
    all_denoisers: dict[str, Denoiser] = {NOISY_INPUT: _clipped, **denoisers}
    errors: dict[tuple[str, str, float, str], list[Values]] = defaultdict(list)
    for block, rows in datasets.iterate_blocks(min(count, images.count), images.shape):
        clean = datasets.read_images(images, rows)
        for kind in noise.kinds:
            for strength, fixed in iterate_strengths(kind):
                stream = random_streams.make_stream(noise.seed, "noise", "strengths", split, kind.name, block)
                noisy, _ = corrupt(clean, [fixed], stream, file_share=noise.file_share)
                for name, denoise in all_denoisers.items():
                    restored = denoise(noisy)
                    errors[kind.name, kind.strength, strength, name].append(metrics.mse(restored, clean))
    mse = {key: np.concatenate(blocks) for key, blocks in errors.items()}
    means = [(*key, float(values.mean()), float(metrics.psnr_of_mse(values).mean())) for key, values in mse.items()]
    return pd.DataFrame(means, columns=["kind", "parameter", "strength", "restored_by", "mse", "psnr"])


def iterate_strengths(kind: NoiseKind) -> Iterator[tuple[float, NoiseKind]]:
    """Yield each strength of a kind's sweep, with the kind at that strength and its other parameters as they are."""
    for strength in kind.sweep:
        yield strength, kind.model_copy(update={kind.strength: float(strength)})


def configured_strengths(noise: NoiseConfig) -> dict[str, object]:
    """Return the strength that each kind in a mix is configured with: a number, a `StrengthRange` or ``grey_levels``."""
    return {kind.name: getattr(kind, kind.strength) for kind in noise.kinds}


def classify_strength(trained: object, order: Sequence[float], strength: float) -> str:
    """Return ``inside``, ``weaker`` or ``stronger``: where a strength lies by a range; empty where there is no range.

    Examples
    --------
    >>> classify_strength(StrengthRange(low=4, high=256), (256, 64, 16, 4, 1), 2)  # fewer photons: more noise
    'stronger'
    """
    if not isinstance(trained, StrengthRange):
        return ""
    if trained.low <= strength <= trained.high:
        return "inside"
    return "weaker" if (strength < trained.low) == (order[0] < order[-1]) else "stronger"


def robustness_rows(table: pd.DataFrame) -> Iterator[Row]:
    """Yield the table as text, its header first: the MSE of the noisy input and of each model in a column of its own."""
    yield ("noise", "strength", "trained on", *(f"MSE, {name}" for name in table["restored_by"].unique()))
    for point, rows in table.groupby(["kind", "parameter", "strength", "trained"], sort=False):
        kind, parameter, strength, trained = point
        yield (
            kind_label(str(kind)),
            f"{parameter} {strength:g}",
            str(trained) or "-",
            *(f"{mse:.5f}" for mse in rows["mse"]),
        )


def _clipped(noisy: Images) -> Images:
    return np.clip(noisy, 0.0, 1.0)
