"""The promotion flow: the gate judges a version that was trained earlier, as it judges a new one."""

from __future__ import annotations

from prefect import flow

from dae.config.schema import GateConfig, TrackingConfig
from dae.promotion import registry
from dae.promotion.schemas import PromotionResult
from dae.schemas import FrozenModel
from dae.tracking import runs
from dae.tracking.client import connect
from dae.tracking.runs import protect_run
from flows import approval, run_control
from tasks.promote import promote
from tasks.score import score

KEPT_HOURS = 24
"""For this time ``dae gc`` keeps the run that is judged; the time a person has to approve is added."""


class PromotionRequest(FrozenModel):
    """The version to promote. If `gate` is None, the policy of the run that trained it applies."""

    version: str
    model_name: str = TrackingConfig().model_name
    gate: GateConfig | None = None


@flow(name="promote-denoiser", flow_run_name="{request.model_name}-{request.version}", validate_parameters=True)
def promote_version(request: PromotionRequest) -> PromotionResult:
    """Score a registered version and the champion on the same noisy images, judge it, and promote it if it passes."""
    connect()
    candidate = registry.get_candidate(request.model_name, request.version)
    config = runs.read_config(candidate.run_id)
    policy = request.gate or config.gate.without_switches()
    protect_run(candidate.run_id, KEPT_HOURS + (policy.approval_hours or 0))
    scores, noisy = score(candidate, config)
    answer, smoke_test = approval.request_approval(candidate, scores, noisy, policy)
    version = promote(candidate, scores, noisy, policy, answer, smoke_test)
    return run_control.final_state(PromotionResult(scores=scores, version=version))
