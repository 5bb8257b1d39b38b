"""The drift check: it scores the champion on fresh noise and on new images, and starts a retraining if it has drifted."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Completed

from dae.config.schema import ConfigError, PipelineConfig
from dae.monitoring import staleness
from dae.monitoring.staleness import Staleness, StalenessPolicy
from dae.schemas import FrozenModel
from dae.tracking.client import connect
from flows import run_control
from flows.deployment.trigger import fit_to_schema
from tasks.assess import assess


class StalenessResult(FrozenModel):
    """The scores, what was decided, and the id of the flow run that retrains, if one was started."""

    staleness: Staleness
    outcome: str
    reason: str
    retraining: str | None


@flow(
    name="retrain-if-stale",
    flow_run_name="{policy.model_name}",
    validate_parameters=True,
    timeout_seconds=run_control.timeout_seconds(),
)
def retrain_if_stale(policy: StalenessPolicy = StalenessPolicy()) -> StalenessResult:  # noqa: B008  (frozen)
    """Score the champion, and start a retraining if it has drifted past the limit and no retraining was started recently."""
    if (state := run_control.find_superseding_state()) is not None:
        return state  # type: ignore[return-value]  # Prefect uses it as the final state of the run
    connect()
    deployment = _read_deployment(policy)
    drift = assess(policy, UUID(str(flow_run.id)).int % 2**32)
    outcome, reason = staleness.decide_retraining(
        drift, staleness.last_retraining(policy.model_name), policy, time.time()
    )
    retraining = _start_retraining(policy, deployment, drift) if outcome == "retrain" else None
    staleness.log_staleness(drift, outcome, str(flow_run.id))
    create_markdown_artifact(
        staleness.staleness_markdown(drift, outcome, reason), key="staleness", description=f"{outcome}: {reason}"
    )
    result = StalenessResult(staleness=drift, outcome=outcome, reason=reason, retraining=retraining)
    final_state: Any = Completed(message=f"{outcome}: {reason}", data=result)
    return final_state  # type: ignore[no-any-return]  # Prefect unpacks the result from the state


def _read_deployment(policy: StalenessPolicy) -> DeploymentResponse:
    """Return the deployment that retrains. It is checked first, since the assessment takes long.

    Raises
    ------
    ConfigError
        If it trains another model than the one that is assessed.
    """
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(policy.deployment)
    model_name = _config(deployment).tracking.model_name
    if model_name != policy.model_name:
        raise ConfigError(f"policy.deployment must train {policy.model_name}, {policy.deployment} trains {model_name}")
    return deployment


def _config(deployment: DeploymentResponse) -> PipelineConfig:
    return PipelineConfig.model_validate(deployment.parameters.get("config", {}))


def _start_retraining(policy: StalenessPolicy, deployment: DeploymentResponse, drift: Staleness) -> str:
    """Start the retraining, with the new images if there are any; return the id of its flow run."""
    config = _config(deployment)
    data = config.data.model_copy(update={"extra_source": policy.watch if drift.images is not None else None})
    run: Any = run_deployment(
        policy.deployment,
        parameters={"config": fit_to_schema(config.model_copy(update={"data": data}), deployment)},
        timeout=0,
        as_subflow=False,
        idempotency_key=f"stale-{flow_run.id}",
        tags=["stale"],
    )
    return str(run.id)
