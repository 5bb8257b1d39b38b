"""Evaluation of a challenger for the gate: comparison with the champion, smoke test, and classical baselines."""

from __future__ import annotations

import logging
from functools import cached_property

import numpy as np

from dae.config.schema import GateConfig
from dae.data import noisy_datasets
from dae.evaluation import baselines, bootstrap
from dae.evaluation.metrics import Values
from dae.evaluation.scores import compute_errors
from dae.extensions import BASELINES
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

logger = logging.getLogger(__name__)


class CandidateEvaluator:
    """The gate for one challenger. A call takes the version of a champion, or None, and returns the gate result.

    Inputs that do not depend on the champion are computed once.

    Parameters
    ----------
    candidate : Candidate
    scores : Scores
        Of the candidate's model.
    noisy : NoisySets
        The frozen noisy images that the scores were computed on.
    policy : GateConfig
    known_result : SmokeTestResult, optional
        The result of the smoke test, if it was run before.

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
        known_result: SmokeTestResult | None = None,
    ) -> None:
        if scores.model_uri != candidate.model_uri:
            raise ModelError(f"the scores must be those of {candidate.model_uri}, received those of {scores.model_uri}")
        self.candidate, self.scores, self.noisy, self.policy = candidate, scores, noisy.validation, policy
        self._gate_results: dict[tuple[str | None, bool], GateResult] = {}
        self._known_result = known_result

    def __call__(self, champion: str | None, /, *, at_once: bool = False) -> GateResult:
        """Return the gate result against a champion. It is computed once for each champion.

        With `at_once`, the champion was promoted during this evaluation, so both were challengers at the same time. Chance
        decides which one comes second. The better one must win, so the challenger must not be worse within any tolerance.
        """
        if (champion, at_once) not in self._gate_results:
            inputs = GateInputs(
                scores=self.scores,
                champion=self._compare_with(champion),
                smoke_test=self.smoke_test if self.policy.smoke_test is not None else None,
                baselines=self.baseline_comparisons,
            )
            policy = _without_tolerance(self.policy) if at_once else self.policy
            self._gate_results[champion, at_once] = gate.evaluate_gate(inputs, policy)
        return self._gate_results[champion, at_once]

    @cached_property
    def smoke_test(self) -> SmokeTestResult:
        """The result of the smoke test in a separate process."""
        if self._known_result is not None:
            return self._known_result
        logger.info(
            "judge: smoke test of version %s of %s in a separate process", self.candidate.version, self.candidate.name
        )
        return smoke_test.run_smoke_test(self.candidate.name, self.candidate.version)

    @cached_property
    def errors(self) -> Values:
        """Mean squared error of the candidate on each frozen noisy validation image."""
        return self._errors(self.candidate.version)

    @cached_property
    def baseline_comparisons(self) -> tuple[BaselineComparison, ...]:
        """Classical methods, tuned on a sample of the validation images, compared with the candidate on the same images."""
        if not self.policy.beat_baselines:
            return ()
        comparisons = []
        for name in self.policy.beat_baselines:
            rows = baselines.sample_rows(self.noisy, BASELINES.load(name).gate_images)
            logger.info("judge: %s, tuned on %d validation images", name, len(rows))
            mse, model_mse = baselines.tune_best_mse(name, self.noisy, rows), float(self.errors[rows].mean())
            comparisons.append(BaselineComparison(name=name, mse=mse, model_mse=model_mse, images=len(rows)))
        return tuple(comparisons)

    def _errors(self, version: str) -> Values:
        model = models.load_model(f"models:/{self.candidate.name}/{version}")
        shape, (*size, channels) = self.noisy.clean.shape, model.input_shape[1:]
        if channels != shape[2] or size not in ([None, None], list(shape[:2])):
            accepted = (
                f"any size and {channels} channels" if size == [None, None] else "x".join(map(str, [*size, channels]))
            )
            raise ModelError(f"it takes images of {accepted}, these are {'x'.join(map(str, shape))}")
        return compute_errors(make_denoiser(model), self.noisy)

    def _compare_with(self, champion: str | None) -> ChampionComparison:
        policy = self.policy.champion
        if champion is None or policy is None:
            return ChampionComparison(version=champion)
        logger.info("judge: comparison with the champion, version %s, on %d images", champion, self.noisy.clean.count)
        try:
            champion_errors = self._errors(champion)
            if not np.isfinite(champion_errors).all():
                raise ModelError("its output for some images is not finite")
        except ModelError as error:
            logger.warning("judge: version %s cannot be compared: %s", champion, error)
            return ChampionComparison(version=champion, trouble=str(error))
        noisy_datasets.verify_noisy_set(self.noisy)
        kinds = np.load(self.noisy.kinds_path)
        comparison = bootstrap.compare_errors(self.errors, champion_errors, kinds, self.noisy.kinds, policy.confidence)
        return ChampionComparison(version=champion, comparison=comparison)


def _without_tolerance(policy: GateConfig) -> GateConfig:
    if policy.champion is None:
        return policy
    strict = policy.champion.model_copy(update={"tolerance": min(policy.champion.tolerance, 0.0)})
    return policy.model_copy(update={"champion": strict})
