"""Figures, as `matplotlib.figure.Figure` objects without pyplot's global state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dae.evaluation import Examples
from dae.noise import Images
from dae.report import label

COLUMNS = ("clean", "noisy", "denoised")
ARTICLE_GRID = slice(92, 101)
"""The test images the article shows."""


def triptychs(examples: Examples, title: str) -> Figure:
    """Return clean | noisy | denoised for each example, two triptychs a line, each with its kind and its error."""
    count = len(examples.rows)
    lines = -(-count // 2)
    figure = Figure(figsize=(9.6, 1.52 * lines + 0.7), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(lines, 7, squeeze=False, width_ratios=[1, 1, 1, 0.15, 1, 1, 1])
    for axis in axes.flat:
        axis.set_axis_off()
    for index in range(count):
        three = axes[index // 2, 4 * (index % 2) : 4 * (index % 2) + 3]
        for axis, name in zip(three, COLUMNS, strict=True):
            _show(axis, getattr(examples, name)[index])
            if index < 2:
                axis.set_title(name, fontsize=10)
        note = f"#{examples.rows[index]} · {label(examples.kinds[index])} · MSE {examples.mse[index]:.4f}"
        three[1].text(0.5, -0.06, note, transform=three[1].transAxes, ha="center", va="top", fontsize=8)
    return figure


def article_grid(examples: Examples) -> Figure:
    """Return the article's own picture: nine test images as 3x3 grids, clean, noisy and denoised side by side."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    first, last = examples.rows[0], examples.rows[-1]
    figure.suptitle(f"Test images {first} to {last}", fontsize=12)
    axes = figure.subplots(1, 3)
    for axis, name in zip(axes, COLUMNS, strict=True):
        axis.set_title(name, fontsize=10)
        axis.set_axis_off()
        _show(axis, _tiled(getattr(examples, name)))
    return figure


def loss_curves(history: Sequence[dict[str, float]], threshold: float | None) -> Figure:
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
    axis.yaxis.set_minor_formatter("{x:.4f}")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    return figure


def _show(axis: Axes, image: Images) -> None:
    axis.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _tiled(images: Images, side: int = 3) -> Images:
    height, width, channels = images.shape[1:]
    canvas = np.ones((side * side, height + 1, width + 1, channels), np.float32)
    canvas[: len(images), :height, :width] = images
    return (
        canvas.reshape(side, side, height + 1, width + 1, channels)
        .swapaxes(1, 2)
        .reshape(side * (height + 1), side * (width + 1), channels)
    )
