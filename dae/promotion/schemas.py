"""The records of promotion: inputs and result of the gate, decisions, versions, and results of flows."""

from __future__ import annotations

from typing import Literal

from dae.evaluation.bootstrap import PairedComparison
from dae.schemas import FrozenModel, Scores, TrainedModel

DecisionEvent = Literal["promoted", "refused", "forced"]


class ChampionComparison(FrozenModel):
    """A challenger compared with the champion: there may be none, and `trouble` says why no comparison was possible."""

    version: str | None = None
    comparison: PairedComparison | None = None
    trouble: str | None = None


class SmokeTestResult(FrozenModel):
    """The result of the smoke test of a registered version, downloaded and used in a process of its own.

    Attributes
    ----------
    sha256, recorded_sha256 : str or None
        Digest of the model file, and the one recorded when it was logged.
    difference : float or None
        Largest absolute difference of the outputs from those recorded; None if none were.
    one_image, other_size : str or None
        What went wrong with a batch of one, and with images of another size; None if nothing did.
    latency_ms : float or None
        95th percentile of the time for one image of the training size.
    error : str or None
        Why it could not be used at all.
    """

    sha256: str | None = None
    recorded_sha256: str | None = None
    difference: float | None = None
    one_image: str | None = None
    other_size: str | None = None
    latency_ms: float | None = None
    file_mib: float | None = None
    memory_mib: float | None = None
    error: str | None = None


class BaselineComparison(FrozenModel):
    """A classical method tuned on validation images, and the model on the same ones: pooled MSE of each."""

    name: str
    mse: float
    model_mse: float
    images: int


class GateInputs(FrozenModel):
    """All that the gate compares with its policy."""

    scores: Scores
    champion: ChampionComparison = ChampionComparison()
    smoke_test: SmokeTestResult | None = None
    baselines: tuple[BaselineComparison, ...] = ()


class Check(FrozenModel):
    """One comparison of the gate: `value` with `limit`, which comes from `source`; `reason` says how it went."""

    name: str
    value: float | None
    limit: float | None
    source: str
    passed: bool
    reason: str


class GateResult(FrozenModel):
    """The result of the gate: its checks, the reasons of a refusal, and the version of the champion it compared with."""

    promoted: bool
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]
    champion: str | None = None

    @property
    def word(self) -> str:
        """``promoted`` or ``refused``, the word used in tags, tables and messages."""
        return "promoted" if self.promoted else "refused"


class ApprovalAnswer(FrozenModel):
    """The answer of a person who was asked to approve; `approved` is None where nobody answered in time.

    It is valid for one question: whether a version may be `event` in place of `champion`.
    """

    approved: bool | None
    who: str
    event: DecisionEvent
    champion: str | None
    comment: str = ""


class Candidate(FrozenModel):
    """A registered version for the gate, and the logged model it was made of."""

    name: str
    version: str
    run_id: str
    model_uri: str


class Decision(FrozenModel):
    """The decision about a version, and who is responsible for it: the gate, or a person with a reason.

    Attributes
    ----------
    event : str
        ``promoted``, ``refused`` or ``forced``.
    reason : str
        Of a forced promotion, an approval or a refusal by a person; else the gate's reasons.
    """

    event: DecisionEvent
    verdict: GateResult
    who: str
    reason: str = ""
    dry_run: bool = False

    @property
    def promoted(self) -> bool:
        """Whether the version is, or in a dry run would be, the champion."""
        return self.event != "refused"


class ModelVersion(FrozenModel):
    """A registered version of a model, and the decision about it."""

    name: str
    version: str
    model_uri: str
    decision: Decision
    aliases: tuple[str, ...]

    @property
    def verdict(self) -> GateResult:
        """The gate's verdict."""
        return self.decision.verdict


class PipelineResult(FrozenModel):
    """The result of a training run."""

    run_id: str
    run_name: str
    model: TrainedModel
    scores: Scores
    version: ModelVersion
    seconds: dict[str, float]


class PromotionResult(FrozenModel):
    """The result of a promotion flow."""

    scores: Scores
    version: ModelVersion
