"""The promotion flow: a version that was trained before meets the gate as a new one does."""

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
"""So long the run that is judged is kept from ``dae gc``, beside the time a person has to approve."""


class PromotionRequest(FrozenModel):
    """Which version is to be promoted; `gate` None: under the policy of the run that made it."""

    version: str
    model_name: str = TrackingConfig().model_name
    gate: GateConfig | None = None


@flow(name="promote-denoiser", flow_run_name="{request.model_name}-{request.version}", validate_parameters=True)
def promote_version(request: PromotionRequest) -> PromotionResult:
    """Score a registered version and the champion on the same noisy images, judge, and promote it if it may be."""
    connect()
    candidate = registry.get_candidate(request.model_name, request.version)
    config = runs.read_config(candidate.run_id)
    policy = request.gate or config.gate.without_switches()
    protect_run(candidate.run_id, KEPT_HOURS + (policy.approval_hours or 0))
    scores, noisy = score(candidate, config)
    answer, trial = approval.request_approval(candidate, scores, noisy, policy)
    version = promote(candidate, scores, noisy, policy, answer, trial)
    return run_control.final_state(PromotionResult(scores=scores, version=version))
