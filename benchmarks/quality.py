"""Quality: the default run with three seeds, and the article's network given the same time of training.

Both are trained by `dae train`, the article's network on its own noise drawn once, in its own batches of 64, for so many
steps as take it as long as the default run's training took. MSE is pooled over the 10,000 test images, the same noisy ones
for both, reported here and used for nothing else. The spread in brackets is over the seeds; the line after the mean has the
standard deviation.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from pathlib import Path

from benchmarks import flows
from benchmarks.measure import Row

CONFIGS = Path(__file__).parents[1] / "configs"
SEEDS = 3
PROBE = 60
THAN = "the article's model, as long"
KINDS = ("gaussian", "salt_and_pepper", "poisson", "speckle")
Scores = dict[str, float]


def measure() -> list[Row]:
    """Train both with each seed, in turn."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for seed in range(SEEDS):
            ours.append(_run(home, "default", [f"train.seed={seed}"]))
            steps = _steps(home, ours[-1]["seconds_train"])
            theirs.append(
                _run(home, "article", [f"train.seed={seed}", "train.epochs=1", f"train.steps_per_epoch={steps}"])
            )
    names = {"test_mse": "test MSE"} | {f"test_mse_{kind}": f"test MSE, {kind.replace('_', ' ')}" for kind in KINDS}
    rows = [_row(what, metric, ours, theirs) for metric, what in names.items()]
    rows += [_against_nothing(kind, ours) for kind in KINDS]
    ours_by, theirs_by = (statistics.stdev(run["test_mse"] for run in runs) for runs in (ours, theirs))
    what = "test MSE, standard deviation over the seeds"
    rows.append(Row(what, "", (ours_by,), (theirs_by,), THAN, more_is_better=False))
    rows.append(Row("validation MSE, on 5,000 other images", "", tuple(run["best_val_mse"] for run in ours)))
    return [*rows, _row("training", "seconds_train", ours, theirs, "s")]


def _row(what: str, metric: str, ours: list[Scores], theirs: list[Scores], unit: str = "") -> Row:
    figures, reference = (tuple(run[metric] for run in runs) for runs in (ours, theirs))
    return Row(what, unit, figures, reference, THAN, more_is_better=False)


def _against_nothing(kind: str, runs: list[Scores]) -> Row:
    model, nothing = (tuple(run[f"test_mse_{kind}{suffix}"] for run in runs) for suffix in ("", "_nothing"))
    what = f"test MSE, {kind.replace('_', ' ')}, beside nothing"
    return Row(what, "", model, nothing, "doing nothing", more_is_better=False, target=1 / 0.6)


def _steps(home: Path, seconds: float) -> int:
    """Return how many steps the article's network takes in so many seconds, from two short trainings."""
    probes = (["train.epochs=1", f"train.steps_per_epoch={steps}"] for steps in (PROBE, 4 * PROBE))
    short, long = (_run(home, "article", settings)["epoch_seconds"] for settings in probes)
    return round(3 * PROBE * seconds / (long - short))


def _run(home: Path, config: str, settings: list[str]) -> Scores:
    arguments = [part for setting in settings for part in ("--set", setting)]
    flows.train(home, "--config", str(CONFIGS / f"{config}.yaml"), *arguments)
    run_id = re.findall(r"MLflow run ([0-9a-f]{32})", (home / "log.txt").read_text())[-1]
    return flows.metrics(home, run_id)
