"""What a challenger is judged by, gathered: the champion beside it, its trial as a version, classical methods."""

from __future__ import annotations

import logging
from functools import cached_property

import numpy as np

from dae.config.schema import GateConfig
from dae.data import noisy_datasets
from dae.evaluation import baselines, bootstrap
from dae.evaluation import scores as scores_module
from dae.evaluation.metrics import Values
from dae.networks.predict import make_denoiser
from dae.promotion import gate, smoke_test
from dae.promotion.schemas import (
    BaselineComparison,
    Candidate,
    ChampionComparison,
    GateInputs,
    GateResult,
    SmokeTestResult,
)
from dae.schemas import NoisySets, Scores
from dae.tracking import models
from dae.tracking.models import ModelError

BASELINE_IMAGES = {"bm3d": 24}
MOST_BASELINE_IMAGES = 200
"""Of validation images for each classical method; BM3D takes seconds for one."""
logger = logging.getLogger(__name__)


class CandidateEvaluator:
    """The gate, for one challenger: given a champion's version, or None, it gathers the evidence and returns the verdict.

    What does not depend on the champion is found once.

    Parameters
    ----------
    candidate : Candidate
    scores : Scores
        Of the candidate's model.
    noisy : NoisySets
        The frozen noisy images the scores were found on.
    policy : GateConfig
    tried : Trial, optional
        What the version did in a clean process, where that is known already.

    Raises
    ------
    ModelError
        If the scores belong to another model.
    """

    def __init__(
        self,
        candidate: Candidate,
        scores: Scores,
        noisy: NoisySets,
        policy: GateConfig,
        tried: SmokeTestResult | None = None,
    ) -> None:
        if scores.model_uri != candidate.model_uri:
            raise ModelError(f"the scores must be those of {candidate.model_uri}, received those of {scores.model_uri}")
        self.candidate, self.scores, self.noisy, self.policy = candidate, scores, noisy.validation, policy
        self._known: dict[tuple[str | None, bool], GateResult] = {}
        self._tried = tried

    def __call__(self, champion: str | None, /, *, at_once: bool = False) -> GateResult:
        """Return the verdict against a champion; found once for each.

        A champion that came while this challenger was judged was a challenger with it. The better of the two is wanted then,
        and luck decides which one is second: no tolerance makes up for being worse.
        """
        if (champion, at_once) not in self._known:
            asked = self.policy.smoke_test is not None
            evidence = GateInputs(
                scores=self.scores,
                opponent=self._opponent(champion),
                trial=self.trial if asked else None,
                rivals=self.rivals,
            )
            policy = _without_tolerance(self.policy) if at_once else self.policy
            self._known[champion, at_once] = gate.evaluate_gate(evidence, policy)
        return self._known[champion, at_once]

    @cached_property
    def trial(self) -> SmokeTestResult:
        """What the version does in a clean process."""
        if self._tried is not None:
            return self._tried
        logger.info("judge: version %s of %s in a process of its own", self.candidate.version, self.candidate.name)
        return smoke_test.run_smoke_test(self.candidate.name, self.candidate.version)

    @cached_property
    def errors(self) -> Values:
        """Mean squared error of the candidate on each frozen noisy validation image."""
        return self._errors(self.candidate.version)

    @cached_property
    def rivals(self) -> tuple[BaselineComparison, ...]:
        """Classical methods, tuned on a sample of the validation images, beside the candidate on the same ones."""
        if not self.policy.beat_baselines:
            return ()
        found = []
        for name in self.policy.beat_baselines:
            rows = baselines.sample_rows(self.noisy, BASELINE_IMAGES.get(name, MOST_BASELINE_IMAGES))
            logger.info("judge: %s, tuned on %d validation images", name, len(rows))
            mse, ours = baselines.tune_best_mse(name, self.noisy, rows), float(self.errors[rows].mean())
            found.append(BaselineComparison(name=name, mse=mse, model_mse=ours, images=len(rows)))
        return tuple(found)

    def _errors(self, version: str) -> Values:
        model = models.load_model(f"models:/{self.candidate.name}/{version}")
        shape, (*size, channels) = self.noisy.clean.shape, model.input_shape[1:]
        if channels != shape[2] or size not in ([None, None], list(shape[:2])):
            taken = (
                f"any size and {channels} channels" if size == [None, None] else "x".join(map(str, [*size, channels]))
            )
            raise ModelError(f"it takes images of {taken}, these are {'x'.join(map(str, shape))}")
        return scores_module.compute_errors(make_denoiser(model), self.noisy)

    def _opponent(self, champion: str | None) -> ChampionComparison:
        policy = self.policy.champion
        if champion is None or policy is None:
            return ChampionComparison(version=champion)
        logger.info("judge: beside the champion, version %s, on %d images", champion, self.noisy.clean.count)
        try:
            theirs = self._errors(champion)
            if not np.isfinite(theirs).all():
                raise ModelError("what it makes of some images is not finite")
        except ModelError as error:
            logger.warning("judge: version %s cannot be compared with: %s", champion, error)
            return ChampionComparison(version=champion, trouble=str(error))
        noisy_datasets.verify_noisy_set(self.noisy)
        drawn = np.load(self.noisy.kinds_path)
        compared = bootstrap.compare_errors(self.errors, theirs, drawn, self.noisy.kinds, policy.confidence)
        return ChampionComparison(version=champion, comparison=compared)


def _without_tolerance(policy: GateConfig) -> GateConfig:
    if policy.champion is None:
        return policy
    strict = policy.champion.model_copy(update={"tolerance": min(policy.champion.tolerance, 0.0)})
    return policy.model_copy(update={"champion": strict})
