"""A person's approval: the flow run pauses, shows the verdict, and continues with the answer."""

from __future__ import annotations

import contextvars
import logging
import shlex
import threading
from concurrent.futures import Future
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import Abort, FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Running

from dae import command_lines
from dae.config.schema import GateConfig
from dae.promotion import reports
from dae.promotion.schemas import ApprovalAnswer, Candidate, DecisionEvent, SmokeTestResult
from dae.schemas import NoisySets, Scores
from dae.tracking import provenance
from tasks.judge import judge

POLL_SECONDS = 5
logger = logging.getLogger("dae.approval")


class Approval(RunInput):
    """The form a person fills in."""

    approve: bool
    who: str = ""
    comment: str = ""


def request_approval(
    candidate: Candidate, scores: Scores, noisy: NoisySets, policy: GateConfig
) -> tuple[ApprovalAnswer | None, SmokeTestResult | None]:
    """Judge a version, and wait until a person approves or rejects its promotion.

    Nobody is asked in a dry run, or about a version that the gate refuses anyway.

    Returns
    -------
    ApprovalAnswer or None
        None if nobody was asked.
    SmokeTestResult or None
        None if the gate was not consulted, or its policy has no smoke test.

    Raises
    ------
    Abort
        If the flow run was cancelled while it waited.
    """
    if policy.approval_hours is None or policy.dry_run:
        return None, None
    verdict, smoke_test = judge(candidate, scores, noisy, policy)
    if not (verdict.promoted or policy.force):
        return None, smoke_test
    question = reports.approval_question(candidate, verdict, policy)
    logger.info("approve: %s", question)
    logger.info(
        "approve: waiting for %g hours; answer in Prefect's UI, or with:\n  PREFECT_API_URL=%s %s",
        policy.approval_hours,
        shlex.quote(str(PREFECT_API_URL.value())),
        command_lines.dae_command(f"approve {flow_run.id} --yes"),
    )
    approval = _wait(question, max(1, round(policy.approval_hours * 3600)))
    event: DecisionEvent = "promoted" if verdict.promoted else "forced"
    if approval is None:
        answer = ApprovalAnswer(approved=None, who=provenance.current_actor(), event=event, champion=verdict.champion)
    else:
        who = approval.who or "somebody unnamed"
        answer = ApprovalAnswer(
            approved=approval.approve, who=who, comment=approval.comment, event=event, champion=verdict.champion
        )
    return answer, smoke_test


def _wait(question: str, seconds: int) -> Approval | None:
    """Return the answer, or None if there was none in time. Prefect's own wait does not notice that the run is cancelled."""
    form = Approval.with_initial_data(approve=False, description=question)
    future: Future[Approval] = Future()

    def pause() -> None:
        try:
            future.set_result(pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=POLL_SECONDS))
        except BaseException as error:  # noqa: BLE001  (the waiting thread raises it)
            future.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(pause,), daemon=True).start()
    run_id = UUID(str(flow_run.id))
    with get_client(sync_client=True) as client:
        while True:
            try:
                return future.result(timeout=POLL_SECONDS)
            except FlowPauseTimeout:
                # A run that stays paused would end as failed, but a missing approval is a refusal.
                client.set_flow_run_state(run_id, Running(), force=True)
                return None
            except TimeoutError:
                state = client.read_flow_run(run_id).state
                if state is not None and (state.is_cancelled() or state.is_cancelling()):
                    raise Abort("the flow run was cancelled while it waited for approval") from None
