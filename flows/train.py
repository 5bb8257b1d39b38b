"""The training flow: ingest, corrupt, train, evaluate, register, promote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from dae import storage
from dae.config.schema import PipelineConfig
from dae.promotion import reports
from dae.promotion.promote import tag_dry_run
from dae.promotion.schemas import PipelineResult
from dae.tracking import runs
from dae.tracking.client import connect
from dae.tracking.run_logging import log_metrics
from dae.tracking.runs import get_unfinished_run, open_run
from flows import approval, run_control
from tasks.corrupt import corrupt
from tasks.evaluate import evaluate
from tasks.ingest import ingest
from tasks.promote import promote
from tasks.register import register
from tasks.train import train


@flow(
    name="train-denoiser",
    flow_run_name="{config.run_name}",
    validate_parameters=True,
    timeout_seconds=run_control.timeout_seconds(),
)
def train_denoiser(config: PipelineConfig = PipelineConfig()) -> PipelineResult:  # noqa: B008  (frozen)
    """Train a denoiser, and promote it if it passes the gate.

    One flow run is one MLflow run of the same name; each is tagged with the other's id, and their final states agree. If
    the gate refuses the model, the run ends as completed, under the name ``Refused``.
    """
    if (state := run_control.find_superseding_state()) is not None:
        return state  # type: ignore[return-value]  # Prefect uses it as the final state of the run
    run_control.require_approval_time(config.gate.approval_hours)
    seconds: dict[str, float] = {}
    if config.tracking.resume:
        _close_flow_run(config.tracking.resume)
    with open_run(config, str(flow_run.id)) as run_id:
        with _clock(seconds, "ingest"):
            images = ingest(config)
        with _clock(seconds, "corrupt"):
            noisy = corrupt(config, images, run_id)
        model = train(config, images, noisy, run_id)
        seconds["train"] = model.seconds
        with _clock(seconds, "evaluate"):
            scores = evaluate(model, noisy)
        with _clock(seconds, "register"):
            candidate = register(config, images, noisy, model, scores)
        answer, smoke_test = approval.request_approval(candidate, scores, noisy, config.gate)
        with _clock(seconds, "promote"):
            version = promote(candidate, scores, noisy, config.gate, answer, smoke_test)
        if version.decision.dry_run:
            tag_dry_run(candidate, version.decision)
        log_metrics(run_id, {f"seconds_{stage}": value for stage, value in seconds.items()})
        result = PipelineResult(
            run_id=run_id, run_name=config.run_name, model=model, scores=scores, version=version, seconds=seconds
        )
        reports.log_result(result)
        storage.delete_cached("checkpoints", run_id)
    return run_control.final_state(result)


def _close_flow_run(run_id: str) -> None:
    """Mark the earlier flow run of a resumed run as crashed, if this server knows it and it has not ended.

    Raises
    ------
    TrackingError
        If the run is still running.
    """
    get_unfinished_run(connect(), run_id)
    flow_run_id = runs.flow_run_of(run_id)
    if flow_run_id is None:
        return
    with get_client(sync_client=True) as client:
        try:
            interrupted = client.read_flow_run(UUID(flow_run_id))
        except (ObjectNotFound, ValueError):
            return
        if interrupted.state is None or not interrupted.state.is_final():
            client.set_flow_run_state(interrupted.id, Crashed(message="The process was killed."), force=True)


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
