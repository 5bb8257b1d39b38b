"""What a run logs to MLflow: parameters, metrics of each epoch, its images, its scores, figures and texts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from dae.schemas import ImageSet, ImageSets, NoisySet, NoisySets, Scores, SplitScores
from dae.tracking.client import TrackingError, connect

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_inputs(run_id: str, images: ImageSets, noisy: NoisySets) -> None:
    """Log the image sets as inputs of a run. MLflow stores at most 36 characters of a digest, so all 64 are in a tag.

    Raises
    ------
    TrackingError
        If a resumed run had other images before.
    """
    inputs = [_input(images.source, "train", images.train, noisy.train)]
    inputs += [
        _input(images.source, name, getattr(noisy, name).clean, getattr(noisy, name)) for name in ("validation", "test")
    ]
    client = connect()
    recorded = client.get_run(run_id).data.tags.get("data_digest")
    if recorded not in (None, images.digest):
        raise TrackingError(
            f"run {run_id} had images of digest {recorded}; those now in {images.source} have {images.digest}"
        )
    if recorded is None:
        client.log_inputs(run_id, inputs)
    client.set_tag(run_id, "data_digest", images.digest)
    for name in ("validation", "test"):
        client.set_tag(run_id, f"noise_digest.{name}", getattr(noisy, name).sha256)


def _input(source: str, context: str, clean: ImageSet, noisy: NoisySet | None) -> DatasetInput:
    digest = noisy.sha256 if noisy else clean.sha256
    tags = {
        "mlflow.data.context": context,
        "clean_sha256": clean.sha256,
        "noise": noisy.sha256 if noisy else "fresh every epoch",
    }
    dataset = Dataset(
        name=f"{source}-{context}",
        digest=digest[:32],
        source_type="local",
        source=json.dumps({"uri": Path(clean.path).as_uri()}),
        schema=json.dumps({"mlflow_tensorspec": {"features": _tensor(clean), "targets": _tensor(clean)}}),
        profile=json.dumps({"num_images": clean.count, "shape": clean.shape, "sha256": digest}),
    )
    return DatasetInput(dataset=dataset, tags=[InputTag(key, value) for key, value in tags.items()])


def _tensor(images: ImageSet) -> str:
    shape = [-1, *images.shape]
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": shape}}])


def log_scores(run_id: str, scores: Scores) -> None:
    """Log the finite scores as metrics, and all scores as ``scores.json``."""
    metrics = split_metrics("val", scores.validation) | split_metrics("test", scores.test)
    if scores.clean_input is not None:
        metrics |= {f"clean_{name}": value for name, value in scores.clean_input.model_dump().items()}
    values = {name: value for name, value in metrics.items() if math.isfinite(value)}
    log_metrics(run_id, values | {"images_per_second": scores.images_per_second})
    MlflowClient().log_text(run_id, scores.model_dump_json(indent=2), "scores.json")


def split_metrics(prefix: str, scores: SplitScores) -> dict[str, float]:
    """Return a split's scores under their names in MLflow: ``test_mse``, ``val_mse_poisson_nothing`` and so on.

    The pooled validation MSE of the logged model is ``best_val_mse``: ``val_mse`` is the curve over the epochs.
    """
    groups = {"": scores.pooled, "_nothing": scores.pooled_nothing}
    groups |= {f"_{kind}": quality for kind, quality in scores.per_kind.items()}
    groups |= {f"_{kind}_nothing": quality for kind, quality in scores.per_kind_nothing.items()}
    for form, (model, nothing) in scores.per_form().items():
        groups |= {f"_{form}": model, f"_{form}_nothing": nothing}
    metrics = {
        f"{prefix}_{metric}{suffix}": value
        for suffix, quality in groups.items()
        for metric, value in quality.values().items()
    }
    if prefix == "val":
        metrics["best_val_mse"] = metrics.pop("val_mse")
    return metrics


def log_epoch(run_id: str, epoch: int, row: Mapping[str, float]) -> None:
    """Log the metrics of an epoch, counted from 0, at step epoch + 1, unless the run has that step already."""
    client = MlflowClient()
    if any(point.step == epoch + 1 for point in client.get_metric_history(run_id, "val_mse")):
        return
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(key, float(value), now, epoch + 1) for key, value in row.items()])


def log_metrics(run_id: str, values: Mapping[str, float]) -> None:
    """Log metrics of a run that belong to no epoch."""
    now = int(time.time() * 1000)
    MlflowClient().log_batch(run_id, metrics=[Metric(key, float(value), now, 0) for key, value in values.items()])


def log_params(run_id: str, values: Mapping[str, str]) -> None:
    """Log parameters of a run."""
    MlflowClient().log_batch(run_id, params=[Param(key, value) for key, value in values.items()])


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    MlflowClient().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_figure(run_id: str, figure: Figure, name: str) -> None:
    """Store a figure as ``figures/<name>.png``."""
    MlflowClient().log_figure(run_id, figure, f"figures/{name}.png", save_kwargs={"dpi": 120})


def log_text(run_id: str, text: str, name: str) -> None:
    """Store a text file in a run."""
    MlflowClient().log_text(run_id, text, name)
