"""How a flow run ends: a refusal by the gate is a normal end, and one that can be told from a promotion."""

from __future__ import annotations

from typing import Any, TypeVar

from prefect.states import Completed

from dae.evaluation import tables
from dae.promotion.schemas import PipelineResult, PromotionResult

Result = TypeVar("Result", PipelineResult, PromotionResult)
REFUSED = "Refused"
"""The name of the state; its type is completed, since nothing went wrong. Automations wait for it by this name."""


def ended(result: Result) -> Result:
    """Return what a flow returns, so that its run ends as completed, under the name `REFUSED` if the gate refused.

    Called from other code the flow returns the result either way.
    """
    if result.version.decision.event != "refused":
        return result
    said = tables.headline(result.version).removeprefix(f"{REFUSED}: ")
    message = " ".join([said, *result.version.verdict.reasons])
    state: Any = Completed(name=REFUSED, message=message, data=result)
    return state  # type: ignore[no-any-return]  # Prefect takes the state apart
