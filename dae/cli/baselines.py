"""``dae baselines``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dae.cli import options

if TYPE_CHECKING:
    from dae.config.schema import PipelineConfig
    from dae.evaluation.baselines import BaselineResult, SampleSizes
    from dae.networks.predict import Denoiser
    from dae.schemas import ImageSets, NoisySets


def baselines(
    config: options.ConfigFile = None,
    settings: options.Settings = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Only these methods, separated by commas: noisy_input, median, tv, nlm, wavelet, bm3d.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A model to compare with them: models:/NAME@ALIAS, a version of the configured model, or a run id.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images to score on, from all kinds of noise.")] = 1000,
    tune: Annotated[int, typer.Option(min=1, help="Validation images to tune on.")] = 100,
    bm3d_images: Annotated[int, typer.Option(min=1, help="Test images for BM3D, which is slow.")] = 48,
    bm3d_tune: Annotated[int, typer.Option(min=1, help="Validation images for BM3D.")] = 12,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
) -> None:
    """Tune classical methods on the validation images, score them on the test images, and log each as a run."""
    with options.reported():
        from dae.config import loading
        from dae.evaluation.baselines import require_sample_sizes

        resolved = loading.load(config, settings or [])
        sizes = _sample_sizes(_method_names(methods, resolved), (tune, images), bm3d_sizes=(bm3d_tune, bm3d_images))
        require_sample_sizes(sizes, resolved)
        results, kinds = _compare(resolved, sizes, model, quiet=markdown)
    _print(results, kinds, as_markdown=markdown)


def _method_names(methods: str | None, config: PipelineConfig) -> list[str]:
    """Return the requested methods, or all that are installed, with a note on each that is not."""
    from dae import command_lines
    from dae.evaluation.baselines import available_methods, require_methods
    from dae.extensions import BASELINES

    names = [name.strip() for name in methods.split(",")] if methods else list(available_methods())
    require_methods(names, config)
    for name in () if methods else sorted(set(BASELINES) - set(names)):
        install = command_lines.install_command("baselines")
        typer.echo(f"{name}: left out, its package is not installed; install it with: {install}", err=True)
    return names


def _sample_sizes(names: Sequence[str], sizes: tuple[int, int], bm3d_sizes: tuple[int, int]) -> dict[str, SampleSizes]:
    """Return the numbers of validation and test images of each method."""
    from dae.evaluation.baselines import SampleSizes

    pairs = {name: bm3d_sizes if name == "bm3d" else sizes for name in names}
    return {name: SampleSizes(tune=tune, images=images) for name, (tune, images) in pairs.items()}


def _compare(
    config: PipelineConfig, sizes: dict[str, SampleSizes], model: str | None, *, quiet: bool
) -> tuple[list[BaselineResult], tuple[str, ...]]:
    """Return all results, and the kinds of noise.

    For a method with fewer images, the noisy input and the model are also scored on just these images.
    """
    import logging

    from dae.data import datasets, noisy_datasets
    from dae.evaluation.baselines import run_baseline, score_model
    from dae.tracking import models

    if quiet:
        logging.getLogger("dae").setLevel(logging.WARNING)
    located = models.locate_model(model, config.tracking.model_name) if model else None
    images = datasets.ingest(config.data)
    noisy = noisy_datasets.corrupt_sets(images, config.noise)
    denoise = _denoiser(located.uri, images) if located else None
    results = _measure(config, images, noisy, sizes)
    for size in dict.fromkeys(sizes.values()):
        if denoise:
            results.append(score_model(f"model {model}", denoise, noisy, size))
        if "noisy_input" in sizes and size != sizes["noisy_input"]:
            results += run_baseline("noisy_input", noisy, size)
    return sorted(results, key=lambda result: -result.images), noisy.test.kinds


def _denoiser(uri: str, images: ImageSets) -> Denoiser:
    from dae import runtime
    from dae.config.schema import ConfigError
    from dae.networks.predict import make_denoiser
    from dae.tracking import models

    runtime.import_keras()
    model = models.load_model(uri)
    shape = model.input_shape[1:]
    if any(expected not in (None, size) for expected, size in zip(shape, images.test.shape, strict=True)):
        raise ConfigError(f"--model must take images of shape {images.test.shape}, received one for {shape}")
    return make_denoiser(model)


def _measure(
    config: PipelineConfig, images: ImageSets, noisy: NoisySets, sizes: dict[str, SampleSizes]
) -> list[BaselineResult]:
    """Tune, score and log each method; show the progress on standard error."""
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from dae.evaluation.baseline_runs import log_baseline
    from dae.evaluation.baselines import count_work, run_baseline

    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, size in sizes.items():
            started = time.time()
            task = progress.add_task(name, total=count_work(name, size))
            for result in run_baseline(name, noisy, size, partial(progress.advance, task)):
                log_baseline(result, config, images, noisy, started)
                results.append(result)
            progress.remove_task(task)
            progress.console.print(f"{name}: tuned and scored in {time.time() - started:.0f} s")
    return results


def _print(results: Sequence[BaselineResult], kinds: tuple[str, ...], *, as_markdown: bool) -> None:
    from dae.evaluation.tables import SETTINGS_HEADER, baseline_settings, baseline_tables, markdown_table
    from dae.tracking.client import store_uri

    tables = list(baseline_tables(results, kinds))
    tables.append(("Settings, tuned on validation", SETTINGS_HEADER, list(baseline_settings(results, kinds))))
    if as_markdown:
        typer.echo("\n\n".join(f"{title}:\n\n{markdown_table([head, *rows])}" for title, head, rows in tables))
        return
    for title, head, rows in tables:
        options.print_table(head, rows, title=title)
    console = options.stdout_console()
    console.print(
        "oracle: one setting for each kind of noise, which must be known; the others have one setting for all kinds."
    )
    console.print("images/s: per second of processor time. Runs at " + store_uri(), soft_wrap=True)
