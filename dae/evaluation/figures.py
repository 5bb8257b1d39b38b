"""Figures of a run, as `matplotlib.figure.Figure` objects without pyplot's global state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from dae import storage
from dae.evaluation.scores import Examples, PerImageScores, find_first_of_kind, find_worst, make_examples
from dae.evaluation.tables import kind_label
from dae.networks.predict import Denoiser
from dae.noise.strength import StrengthRange
from dae.schemas import Images, NoisySet

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("clean", "noisy", "denoised")
ARTICLE_GRID = slice(92, 101)
"""The test images the article shows."""
OF_A_KIND = 6
WORST = 12


def plot_triptychs(examples: Examples, title: str) -> Figure:
    """Return clean | noisy | denoised for each example, two triptychs a line, each with its kind and its error."""
    lines = -(-len(examples.rows) // 2)
    figure = Figure(figsize=(9.6, 1.75 * lines + 0.75))
    figure.suptitle(title, fontsize=12, y=1 - 0.12 / figure.get_figheight(), va="top")
    axes = figure.subplots(lines, 2, squeeze=False)
    edge = 0.6 / figure.get_figheight()
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - edge, bottom=edge / 2, wspace=0.04, hspace=0.16)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, axis in zip(range(len(examples.rows)), axes.flat, strict=False):
        images = np.stack([getattr(examples, name)[index] for name in COLUMNS])
        _show(axis, _tiled(images, columns=3))
        note = f"#{examples.rows[index]} · {kind_label(examples.kinds[index])} · MSE {examples.mse[index]:.5f}"
        axis.text(0.5, -0.03, note, transform=axis.transAxes, ha="center", va="top", fontsize=8)
        for column, name in enumerate(COLUMNS if index < 2 else ()):
            axis.text((2 * column + 1) / 6, 1.03, name, transform=axis.transAxes, ha="center", fontsize=10)
    return figure


def plot_article_grid(examples: Examples) -> Figure:
    """Return the article's own picture: nine test images as 3x3 grids, clean, noisy and denoised side by side."""
    figure = Figure(figsize=(9.6, 3.7))
    figure.suptitle(f"Test images {examples.rows[0]} to {examples.rows[-1]}", fontsize=12)
    axes = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.84, bottom=0.01, wspace=0.03)
    for axis, name in zip(axes, COLUMNS, strict=True):
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
        _show(axis, _tiled(getattr(examples, name), columns=3))
    return figure


def plot_loss_curves(history: Sequence[dict[str, float]], threshold: float | None) -> Figure:
    """Return training loss and validation MSE over the epochs, on a logarithmic scale, with the gate's threshold."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    epochs = np.arange(1, len(history) + 1)
    validation = np.array([row["val_mse"] for row in history])
    axis.plot(epochs, [row["train_loss"] for row in history], "o-", color="#7a8899", label="training loss (MSE)", ms=4)
    axis.plot(epochs, validation, "o-", color="#0b6fb8", label="validation MSE", ms=4)
    best = int(np.argmin(validation))
    axis.plot(
        epochs[best],
        validation[best],
        "*",
        color="#0b6fb8",
        ms=13,
        label=f"best: {validation[best]:.5f}, epoch {best + 1}",
    )
    if threshold is not None:
        axis.axhline(threshold, color="#c0392b", ls="--", label=f"gate: {threshold:g}")
    axis.set(xlabel="epoch", ylabel="mean squared error", yscale="log", title="Training")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_formatter("{x:.4f}")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 4, 5, 7)))
    axis.yaxis.set_minor_formatter("{x:.4f}")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    return figure


def plot_robustness(table: pd.DataFrame, trained: Mapping[str, Mapping[str, object]]) -> Figure:
    """Return the MSE over the strength of the noise, a panel for each kind, with weak noise on the left.

    Parameters
    ----------
    table : DataFrame
        As `dae.evaluation.robustness.sweep_strengths` makes it.
    trained : mapping
        For each model, the strength of each kind it was trained on: a range is shaded, a number is a dotted line.
    """
    kinds = table["kind"].unique()
    lines = -(-len(kinds) // 2)
    figure = Figure(figsize=(9.6, 3.4 * lines + 0.4), layout="constrained")
    axes = figure.subplots(lines, 2, squeeze=False).ravel()
    for axis, kind in zip(axes, kinds, strict=False):
        _strengths_of_kind(axis, table[table["kind"] == kind], {name: of.get(kind) for name, of in trained.items()})
        axis.set(title=kind_label(kind), ylabel="mean squared error")
    for axis in axes[len(kinds) :]:
        axis.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _strengths_of_kind(axis: Axes, table: pd.DataFrame, trained: Mapping[str, object]) -> None:
    for number, (name, curve) in enumerate(table.groupby("restored_by", sort=False)):
        colour = "#7a8899" if number == 0 else f"C{number - 1}"
        axis.plot(curve["strength"], curve["mse"], "o-", ms=3.5, color=colour, label=name)
        setting = trained.get(str(name))
        if isinstance(setting, StrengthRange):
            axis.axvspan(setting.low, setting.high, color=colour, alpha=0.12, lw=0)
        elif isinstance(setting, float):
            axis.axvline(setting, color=colour, ls=":")
    axis.set(xscale="log", yscale="log", xlabel=table["parameter"].iloc[0])
    if table["strength"].iloc[0] > table["strength"].iloc[-1]:
        axis.invert_xaxis()
    axis.grid(alpha=0.3)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, atomically."""
    with storage.atomic_write(path) as draft:
        figure.savefig(draft, format="png", dpi=80)


def _show(axis: Axes, image: Images) -> None:
    axis.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _tiled(images: Images, columns: int) -> Images:
    """Return the images side by side on white, `columns` a line, with a gap of a pixel between them."""
    count, height, width, channels = images.shape
    lines = -(-count // columns)
    canvas = np.ones((lines * columns, height + 1, width + 1, channels), np.float32)
    canvas[:count, :height, :width] = images
    grid = canvas.reshape(lines, columns, height + 1, width + 1, channels).swapaxes(1, 2)
    return grid.reshape(lines * (height + 1), columns * (width + 1), channels)[:-1, :-1]


def plot_run(denoise: Denoiser, noisy: NoisySet, per_image: PerImageScores) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each picture of a model at work on a frozen set.

    ``overview`` has two images of each kind, ``kind_<kind>`` six, ``worst`` those of the largest error, and ``article_grid``
    the images the article shows, or the first nine of a set that has no 101.
    """
    chosen = [find_first_of_kind(per_image, kind, OF_A_KIND) for kind in range(len(noisy.kinds))]
    overview = np.concatenate([rows[:2] for rows in chosen])
    yield "overview", plot_triptychs(make_examples(denoise, noisy, overview), "Test images, two of each kind of noise")
    for kind, rows in zip(noisy.kinds, chosen, strict=True):
        if len(rows):
            yield (
                f"kind_{kind}",
                plot_triptychs(make_examples(denoise, noisy, rows), f"Test images: {kind_label(kind)}"),
            )
    hardest = find_worst(per_image, WORST)
    yield (
        "worst",
        plot_triptychs(make_examples(denoise, noisy, hardest), f"The {len(hardest)} test images it does worst on"),
    )
    grid = np.arange(noisy.clean.count)[ARTICLE_GRID]
    grid = grid if len(grid) == 9 else np.arange(min(9, noisy.clean.count))
    yield "article_grid", plot_article_grid(make_examples(denoise, noisy, grid))
