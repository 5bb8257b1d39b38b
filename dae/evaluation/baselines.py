"""Classical methods at their best: tuned on the frozen validation set, scored on the images the models are scored on.

Each is tuned twice: *blind*, with one setting for all kinds of noise, as a model works, and as an *oracle*, with a setting for
each kind, which no model knows.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dae import command_lines
from dae.config.schema import ConfigError, PipelineConfig
from dae.data import noisy_datasets
from dae.evaluation import metrics
from dae.evaluation.classical import Method
from dae.evaluation.metrics import Values
from dae.evaluation.scores import Examples, PerImageScores, join_scores, make_examples, score_images, summarise
from dae.extensions import BASELINES
from dae.networks.predict import Denoiser, choose_batch_size
from dae.schemas import FrozenModel, Images, NoisySet, NoisySets, Scores

Advance = Callable[[int], None]


class SampleSizes(FrozenModel):
    """How many validation images a method is tuned on, and how many test images it is scored on."""

    tune: int
    images: int


class BaselineResult(FrozenModel):
    """A method as tuned, or a model, with its scores on `images` test images; `settings` has one for each kind of noise."""

    name: str
    oracle: bool = False
    settings: tuple[Method, ...] = ()
    tuned_on: int = 0
    images: int
    scores: Scores

    @property
    def title(self) -> str:
        """The name, with *oracle* for a method that knows the kind of noise."""
        return f"{self.name}, oracle" if self.oracle else self.name


def get_grid(name: str) -> tuple[Method, ...]:
    """Return the settings of a method that are tried when it is tuned."""
    grid: tuple[Method, ...] = BASELINES.load(name).grid()
    return grid


def require_methods(names: Sequence[str], config: PipelineConfig) -> None:
    """Refuse a name that no method has, a method whose package is not installed, and tuning on test images.

    Raises
    ------
    ConfigError
    """
    if config.data.validation == "test":
        raise ConfigError("data.validation must hold images of its own to tune methods on, received test")
    for name in names:
        if name not in BASELINES:
            raise ConfigError(f"--methods must be among {', '.join(BASELINES)}, received {name}")
        method = BASELINES.load(name)
        if name not in available_methods():
            note = f", {method.note}" if method.note else ""
            install = command_lines.install_command("baselines")
            raise ConfigError(f"{name} needs the package {method.package}{note}: {install}; or leave it out")


def require_sample_sizes(sizes: Mapping[str, SampleSizes], config: PipelineConfig) -> None:
    """Refuse fewer images than there are kinds of noise.

    Raises
    ------
    ConfigError
    """
    kinds = len(config.noise.shares())
    for name, size in sizes.items():
        if min(size.tune, size.images) < kinds:
            raise ConfigError(
                f"{name} must be tuned and scored on at least one image for each of {kinds} kinds of noise, "
                f"received {size.tune} and {size.images}"
            )


def available_methods() -> tuple[str, ...]:
    """Return the methods whose packages are installed."""
    packages = {name: method.package for name, method in BASELINES.items()}
    return tuple(name for name, package in packages.items() if not package or importlib.util.find_spec(package))


def sample_rows(noisy: NoisySet, count: int) -> NDArray[np.intp]:
    """Return the rows of `count` images, or of all if there are fewer, spread evenly over each kind of noise."""
    by_kind = np.argsort(np.load(noisy.kinds_path), kind="stable")
    places = np.linspace(0, len(by_kind) - 1, min(count, len(by_kind))).round().astype(np.intp)
    return np.sort(by_kind[places])


def run_baseline(
    name: str, sets: NoisySets, sizes: SampleSizes, advance: Advance = lambda _: None
) -> Iterator[BaselineResult]:
    """Tune a method and yield it scored: blind and, where that differs, as an oracle.

    Parameters
    ----------
    name : str
        A name of `BASELINES`.
    sets : NoisySets
    sizes : Sizes
    advance : callable
        Called with the number of images that were worked on since the last call; `count_work` returns the most there can be.
    """
    blind, oracle = tune(get_grid(name), sets.validation, sample_rows(sets.validation, sizes.tune), advance)
    splits = ((sets.validation, sizes.tune), (sets.test, sizes.images))
    known: dict[tuple[str, int, int, Method], PerImageScores] = {}
    for settings in dict.fromkeys((blind, oracle)):
        validation, test = (
            _score(settings, noisy, sample_rows(noisy, count), known, advance) for noisy, count in splits
        )
        yield BaselineResult(
            name=name,
            oracle=settings != blind,
            settings=settings,
            tuned_on=len(validation.mse) if len(get_grid(name)) > 1 else 0,
            images=len(test.mse),
            scores=_scores(name, sets, validation, test),
        )


def count_work(name: str, sizes: SampleSizes) -> int:
    """Return how many images a method works on at most."""
    return len(get_grid(name)) * sizes.tune + 2 * (sizes.tune + sizes.images)


def score_model(name: str, denoise: Denoiser, sets: NoisySets, sizes: SampleSizes) -> BaselineResult:
    """Return a trained model scored on the images that the methods are scored on; its speed is that of one whole batch."""
    splits = ((sets.validation, sizes.tune), (sets.test, sizes.images))
    validation, test = (score_images(denoise, noisy, sample_rows(noisy, count)) for noisy, count in splits)
    batch = np.resize(sample_rows(sets.test, sizes.images), choose_batch_size(sets.test.clean.shape))
    speed = len(batch) / score_images(denoise, sets.test, batch, time.process_time).seconds
    scores = _scores(name, sets, validation, test).model_copy(update={"images_per_second": speed})
    return BaselineResult(name=name, images=len(test.mse), scores=scores)


def tune(
    grid: Sequence[Method], noisy: NoisySet, rows: NDArray[np.intp], advance: Advance
) -> tuple[tuple[Method, ...], tuple[Method, ...]]:
    """Return the settings of least mean squared error: for each kind the one that is best over all, and the best for it."""
    damaged, clean, drawn = noisy_datasets.read_block(noisy, rows)
    errors: list[Values] = []
    for setting in grid:
        errors.append(metrics.mse(setting(damaged), clean) if len(grid) > 1 else np.zeros(len(rows)))
        advance(len(rows))
    table = np.stack(errors)
    best = grid[int(table.mean(axis=1).argmin())]
    kinds = range(len(noisy.kinds))
    oracle = [grid[int(table[:, drawn == k].mean(axis=1).argmin())] if (drawn == k).any() else best for k in kinds]
    return (best,) * len(kinds), tuple(oracle)


def tune_best_mse(name: str, noisy: NoisySet, rows: NDArray[np.intp]) -> float:
    """Return a method's least mean squared error over some images of a set, which it is tuned on as well: that favours it."""
    (setting, *_), _ = tune(get_grid(name), noisy, rows, lambda _: None)
    damaged, clean, _ = noisy_datasets.read_block(noisy, rows)
    return float(metrics.mse(setting(damaged), clean).mean())


def make_baseline_examples(result: BaselineResult, noisy: NoisySet, of_a_kind: int = 2) -> Examples:
    """Return the first test images of each kind among those the method was scored on, with what it makes of them."""
    rows = sample_rows(noisy, result.images)
    drawn = np.load(noisy.kinds_path)[rows]
    chosen = np.concatenate([rows[drawn == kind][:of_a_kind] for kind in range(len(noisy.kinds))])
    kinds = np.load(noisy.kinds_path)[chosen]

    def denoise(damaged: Images) -> Images:
        pairs = zip(kinds, damaged, strict=True)
        return np.concatenate([result.settings[kind](image[None]) for kind, image in pairs])

    return make_examples(denoise, noisy, chosen)


def _score(
    settings: tuple[Method, ...],
    noisy: NoisySet,
    rows: NDArray[np.intp],
    known: dict[tuple[str, int, int, Method], PerImageScores],
    advance: Advance,
) -> PerImageScores:
    """Score the images of each kind under its setting. Results in `known` are reused."""
    drawn = np.load(noisy.kinds_path)[rows]
    parts = []
    for kind, setting in enumerate(settings):
        if not (drawn == kind).any():
            continue
        key = (noisy.path, len(rows), kind, setting)  # validation may be the test set, with other rows
        if key not in known:
            known[key] = score_images(setting, noisy, rows[drawn == kind], time.process_time)
            advance(len(known[key].mse))
        parts.append(known[key])
    return join_scores(parts)


def _scores(name: str, sets: NoisySets, validation: PerImageScores, test: PerImageScores) -> Scores:
    return Scores(
        model_uri=name,
        validation=summarise(validation, sets.validation.kinds),
        test=summarise(test, sets.test.kinds),
        images_per_second=len(test.mse) / max(test.seconds, 1e-9),
    )
