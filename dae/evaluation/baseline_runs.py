"""Classical methods as MLflow runs, with the metrics a model's run has, so that its UI puts them side by side."""

from __future__ import annotations

import time

from dae.config.schema import PipelineConfig
from dae.evaluation import baselines
from dae.evaluation.baselines import BaselineResult
from dae.schemas import ImageSets, NoisySets
from dae.tracking import provenance, run_logging
from dae.tracking.client import connect, experiment_id
from dae.tracking.run_logging import log_figure, log_params


def log_baseline(
    result: BaselineResult, config: PipelineConfig, images: ImageSets, noisy: NoisySets, started: float
) -> str:
    """Store a method's scores, settings and picture as a finished run, and return the run's id.

    Parameters
    ----------
    result : BaselineResult
        A classical method.
    config : PipelineConfig
    images : ImageSets
    noisy : NoisySets
    started : float
        When its tuning began, in seconds since the epoch.
    """
    from dae.evaluation import figures

    client = connect()
    name = f"{images.source}-{result.name}{'-oracle' if result.oracle else ''}"
    tags = {"kind": "baseline", "mlflow.source.name": "dae baselines", "mlflow.source.type": "LOCAL"}
    run_id = str(
        client.create_run(
            experiment_id(client, config.tracking.experiment),
            start_time=int(started * 1000),
            tags=tags | provenance.read_git_tags(),
            run_name=name,
        ).info.run_id
    )
    status = "FAILED"
    try:
        log_params(run_id, baseline_params(result, config, noisy.test.kinds))
        run_logging.log_inputs(run_id, images, noisy)
        run_logging.log_scores(run_id, result.scores)
        figure = figures.plot_triptychs(
            baselines.make_baseline_examples(result, noisy.test), f"{name}: two of each kind of noise"
        )
        log_figure(run_id, figure, "overview")
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status, end_time=int(time.time() * 1000))
    return run_id


def baseline_params(result: BaselineResult, config: PipelineConfig, kinds: tuple[str, ...]) -> dict[str, str]:
    """Return what a run's scores depend on: the data, the noise, the tuned settings and the numbers of images."""
    configured = {key: str(value) for key, value in config.flat().items() if key.startswith(("data.", "noise."))}
    own = {
        "method": result.name,
        "oracle": str(result.oracle),
        "tuned_on": str(result.tuned_on),
        "test_images": str(result.images),
    }
    for kind, setting in zip(kinds, result.settings, strict=True):
        prefix = f"{result.name}.{kind}" if result.oracle else result.name
        own |= {f"{prefix}.{key}": str(value) for key, value in setting.model_dump(exclude={"method"}).items()}
    return configured | own
