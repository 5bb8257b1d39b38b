"""The check for staleness: the champion on fresh noise and on new images; where it has drifted, a retraining is asked for."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Completed

from dae.config.schema import ConfigError, PipelineConfig
from dae.monitoring import staleness
from dae.monitoring.staleness import Staleness, StalenessPolicy
from dae.schemas import FrozenModel
from dae.tracking.client import connect
from flows import run_control
from tasks.assess import assess


class StalenessResult(FrozenModel):
    """What was found, what was done about it, and the flow run that was asked for."""

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
    """Score the champion as it is today, and ask for a retraining if it has drifted past the limit and none was of late."""
    if (state := run_control.find_superseding_state()) is not None:
        return state  # type: ignore[return-value]  # Prefect takes it for how the run ended
    connect()
    config = _config(policy)
    found = assess(policy, UUID(str(flow_run.id)).int % 2**32)
    outcome, reason = staleness.decide_retraining(
        found, staleness.last_retraining(policy.model_name), policy, time.time()
    )
    retraining = _ask(policy, config, found) if outcome == "retrain" else None
    staleness.log_staleness(found, outcome, str(flow_run.id))
    create_markdown_artifact(
        staleness.staleness_markdown(found, outcome, reason), key="staleness", description=f"{outcome}: {reason}"
    )
    result = StalenessResult(staleness=found, outcome=outcome, reason=reason, retraining=retraining)
    ended: Any = Completed(message=f"{outcome}: {reason}", data=result)
    return ended  # type: ignore[no-any-return]  # Prefect takes the state apart


def _config(policy: StalenessPolicy) -> PipelineConfig:
    """Return the configuration of the deployment that retrains, before anything long is done.

    Raises
    ------
    ConfigError
        If it trains another model than the one that is looked at.
    """
    with get_client(sync_client=True) as client:
        parameters = client.read_deployment_by_name(policy.deployment).parameters
    config = PipelineConfig.model_validate(parameters.get("config", {}))
    if config.tracking.model_name != policy.model_name:
        raise ConfigError(
            f"policy.deployment must train {policy.model_name}, {policy.deployment} trains {config.tracking.model_name}"
        )
    return config


def _ask(policy: StalenessPolicy, config: PipelineConfig, found: Staleness) -> str:
    """Start the retraining, on the new images too where there are any; return the id of its flow run."""
    extra_source = policy.watch if found.images is not None else None
    changed = config.model_copy(update={"data": config.data.model_copy(update={"extra_source": extra_source})})
    asked: Any = run_deployment(
        policy.deployment,
        parameters={"config": changed.model_dump(mode="json")},
        timeout=0,
        as_subflow=False,
        idempotency_key=f"stale-{flow_run.id}",
        tags=["stale"],
    )
    return str(asked.id)
