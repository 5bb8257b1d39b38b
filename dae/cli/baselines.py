"""``dae baselines``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

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
        str | None, typer.Option(help="Only these: nothing,median,tv,nlm,wavelet,bm3d.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model beside them: models:/NAME@ALIAS, a version of the configured model, or a run id.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images to score on, spread over the kinds.")] = 1000,
    tune: Annotated[int, typer.Option(min=1, help="Validation images to tune on.")] = 100,
    bm3d_images: Annotated[int, typer.Option(min=1, help="The same for BM3D, which is slow.")] = 48,
    bm3d_tune: Annotated[int, typer.Option(min=1, help="The same for BM3D.")] = 12,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
) -> None:
    """Tune classical methods on the validation images, score them on the test images, and log each as a run."""
    with options.reported():
        from dae import command_lines
        from dae.config import loading
        from dae.evaluation import baselines as library

        resolved = loading.load(config, settings or [])
        names = [name.strip() for name in methods.split(",")] if methods else list(library.available_methods())
        library.require_methods(names, resolved)
        for name in () if methods else library.GRIDS.keys() - names:
            how = command_lines.install_command("baselines")
            typer.echo(f"{name}: left out, its package is not installed; to have it: {how}", err=True)
        sizes = {name: library.SampleSizes(tune=tune, images=images) for name in names}
        if "bm3d" in sizes:
            sizes["bm3d"] = library.SampleSizes(tune=bm3d_tune, images=bm3d_images)
        library.require_sample_sizes(sizes, resolved)
        found, kinds = _compare(resolved, sizes, model, quiet=markdown)
    _print(found, kinds, as_markdown=markdown)


def _compare(
    config: PipelineConfig, sizes: dict[str, SampleSizes], model: str | None, *, quiet: bool
) -> tuple[list[BaselineResult], tuple[str, ...]]:
    """Return every contender. What is scored on fewer images has doing nothing, and the model, on those beside it."""
    import logging

    from dae.data import datasets, noisy_datasets
    from dae.evaluation import baselines as library
    from dae.tracking import models

    if quiet:
        logging.getLogger("dae").setLevel(logging.WARNING)
    located = models.locate_model(model, config.tracking.model_name) if model else None
    images = datasets.ingest(config.data)
    noisy = noisy_datasets.corrupt_sets(images, config.noise)
    denoise = _denoiser(located.uri, images) if located else None
    found = _measure(config, images, noisy, sizes)
    for size in dict.fromkeys(sizes.values()):
        if denoise:
            found.append(library.score_model(f"model {model}", denoise, noisy, size))
        if "nothing" in sizes and size != sizes["nothing"]:
            found += library.run_baseline("nothing", noisy, size)
    return sorted(found, key=lambda each: -each.images), noisy.test.kinds


def _denoiser(uri: str, images: ImageSets) -> Denoiser:
    from dae import runtime
    from dae.config.schema import ConfigError
    from dae.networks.predict import make_denoiser
    from dae.tracking import models

    runtime.import_keras()
    loaded = models.load_model(uri)
    taken = loaded.input_shape[1:]
    if any(size not in (None, given) for size, given in zip(taken, images.test.shape, strict=True)):
        raise ConfigError(f"--model must take images of shape {images.test.shape}, received one for {taken}")
    return make_denoiser(loaded)


def _measure(
    config: PipelineConfig, images: ImageSets, noisy: NoisySets, sizes: dict[str, SampleSizes]
) -> list[BaselineResult]:
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress

    from dae.evaluation import baseline_runs
    from dae.evaluation import baselines as library

    found = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, size in sizes.items():
            started = time.time()
            task = progress.add_task(name, total=library.count_work(name, size))
            for each in library.run_baseline(name, noisy, size, partial(progress.advance, task)):
                baseline_runs.log_baseline(each, config, images, noisy, started)
                found.append(each)
            progress.remove_task(task)
            progress.console.print(f"{name}: tuned and scored in {time.time() - started:.0f} s")
    return found


def _print(found: Sequence[BaselineResult], kinds: tuple[str, ...], *, as_markdown: bool) -> None:
    from dae.evaluation.tables import SETTINGS_HEADER, baseline_settings, baseline_tables, markdown_table
    from dae.tracking.client import store_uri

    tables = list(baseline_tables(found, kinds))
    tables.append(("Settings, tuned on validation", SETTINGS_HEADER, list(baseline_settings(found, kinds))))
    if as_markdown:
        typer.echo("\n\n".join(f"{title}:\n\n{markdown_table([head, *lines])}" for title, head, lines in tables))
        return
    console: Any = options.console()
    for title, head, lines in tables:
        console.print(_table(title, head, lines))
    console.print(
        "blind: one setting for all kinds of noise, as a model has; told: one for each, so it is told the kind."
    )
    console.print("images/s: per second of processor time. Runs at " + store_uri(), soft_wrap=True)


def _table(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(*head, title=f"\n{title}", title_justify="left", title_style="bold")
    for line in lines:
        table.add_row(*map(escape, line))
    return table
