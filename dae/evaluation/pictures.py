"""The pictures of a run, under the same names in every run, so that the MLflow UI can put runs side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from dae.evaluation import figures
from dae.evaluation.scores import PerImage, examples, first_of_kind, worst
from dae.evaluation.tables import label
from dae.networks.predict import Denoiser
from dae.schemas import NoisySet

OF_A_KIND = 6
WORST = 12


def pictures(denoise: Denoiser, noisy: NoisySet, per_image: PerImage) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each picture of a model at work on a frozen set.

    ``overview`` has two images of each kind, ``kind_<kind>`` six, ``worst`` those of the largest error, and ``article_grid``
    the images the article shows, or the first nine of a set that has no 101.
    """
    chosen = [first_of_kind(per_image, kind, OF_A_KIND) for kind in range(len(noisy.kinds))]
    overview = np.concatenate([rows[:2] for rows in chosen])
    yield "overview", figures.triptychs(examples(denoise, noisy, overview), "Test images, two of each kind of noise")
    for kind, rows in zip(noisy.kinds, chosen, strict=True):
        if len(rows):
            yield f"kind_{kind}", figures.triptychs(examples(denoise, noisy, rows), f"Test images: {label(kind)}")
    hardest = worst(per_image, WORST)
    yield (
        "worst",
        figures.triptychs(examples(denoise, noisy, hardest), f"The {len(hardest)} test images it does worst on"),
    )
    grid = np.arange(noisy.clean.count)[figures.ARTICLE_GRID]
    grid = grid if len(grid) == 9 else np.arange(min(9, noisy.clean.count))
    yield "article_grid", figures.article_grid(examples(denoise, noisy, grid))
