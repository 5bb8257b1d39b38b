"""Staleness: whether the champion is worse than its recorded scores, with new noise or on new images, and what to do then."""

from __future__ import annotations

import logging
import math
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from dae import storage
from dae.config.schema import NAME, Count, Positive
from dae.monitoring import new_images
from dae.monitoring.drift import Drift, ScoredVersion
from dae.promotion import registry
from dae.schemas import FrozenModel, reject_bool
from dae.tracking.client import CHECKS, FLOW_RUN, connect, experiment_id
from dae.tracking.run_logging import log_metrics

TAG_LENGTH = 5000
StalenessOutcome = Literal["no champion", "fresh", "retrain", "cooling down", "known"]
logger = logging.getLogger(__name__)


class StalenessPolicy(FrozenModel):
    """When the champion is stale, and when it is trained again."""

    model_name: Annotated[str, Field(pattern=NAME)] = "dae"
    watch: Annotated[str, Field(min_length=1)] | None = Field(
        "incoming", description="a folder of new, clean images; None: only new noise is drawn"
    )
    limit: Positive = Field(0.2, description="largest allowed rise of the MSE, relative to the recorded MSE")
    confidence: Annotated[float, BeforeValidator(reject_bool), Field(ge=0.5, lt=1)] = Field(
        0.95, description="of the bootstrap interval; the champion is stale only if its lower bound is above the limit"
    )
    min_images: Count = Field(100, description="fewer new images are not scored")
    cooldown_hours: Annotated[float, BeforeValidator(reject_bool), Field(ge=0, le=87_600)] = Field(
        72.0, description="hours after a retraining request in which no other one is made"
    )
    deployment: str = Field("train-denoiser/retrain", description="the deployment that trains again")


class Staleness(FrozenModel):
    """The result of a check.

    Attributes
    ----------
    version : str or None
        The champion; None if there is none.
    noise, images : Drift or None
        On its validation images with new noise, and on the new images; None if it was not scored: `reasons` says why.
    images_digest : str or None
        Of the bytes of the new images that were scored, independent of their file names.
    trained_on_images : bool
        Whether the champion is stale on the new images although it was trained on exactly these.
    """

    model_name: str
    version: str | None
    noise: Drift | None = None
    images: Drift | None = None
    images_digest: str | None = None
    stale: bool
    reasons: tuple[str, ...]
    trained_on_images: bool = False


class RetrainingRequest(FrozenModel):
    """A retraining request: its time in seconds since the epoch, the stale champion, and the digest of the new images."""

    time: float
    version: str
    images_digest: str | None


def check_staleness(policy: StalenessPolicy, seed: int) -> Staleness:
    """Score the champion again: on its validation images with new noise, and on the new images if there are enough.

    Temporary files are removed at the end, also after an error.

    Parameters
    ----------
    policy : StalenessPolicy
    seed : int
        Seed of the noise.

    Raises
    ------
    DataError
        If a new image cannot be read, or does not have the shape of the training images.
    ModelError
        If the champion does not load, or its output is not finite.
    TrackingError
        If its run lacks the records for the comparison.
    """
    name, version = policy.model_name, registry.find_champion(policy.model_name)
    if version is None:
        return Staleness(model_name=name, version=None, stale=False, reasons=(f"{name} has no champion",))
    logger.info("staleness: version %s of %s, noise with seed %d", version, name, seed)
    with storage.scratch_folder("staleness") as work:
        champion = ScoredVersion(f"models:/{name}/{version}", work)
        patch = champion.config.data.patch
        # The new images come first, so that a damaged file is reported before the slow part.
        new = new_images.read_new_images(policy.watch, policy.min_images, champion.shape, patch, work / "new")
        held_out = champion.held_out()
        noise = champion.measure(held_out, seed, policy.confidence) if held_out else None
        images = champion.measure(new.images, seed, policy.confidence) if new.images else None
        trained_on_images = (
            policy.watch is not None and _above(images, policy) and champion.was_trained_on(policy.watch)
        )
    trouble = "" if held_out else f"the validation images of version {version} are no longer available"
    reasons = (_reason("new noise", noise, policy, trouble), _reason("new images", images, policy, new.trouble))
    return Staleness(
        model_name=name,
        version=version,
        noise=noise,
        images=images,
        images_digest=new.digest,
        stale=_above(noise, policy) or _above(images, policy),
        reasons=reasons,
        trained_on_images=trained_on_images,
    )


def decide_retraining(
    staleness: Staleness, last: RetrainingRequest | None, policy: StalenessPolicy, now: float
) -> tuple[StalenessOutcome, str]:
    """Return what follows from a check, and why. A pure function.

    Parameters
    ----------
    staleness : Staleness
    last : RetrainingRequest, optional
        The last retraining request.
    policy : StalenessPolicy
    now : float
        In seconds since the epoch.

    Returns
    -------
    outcome : str
        ``retrain``; ``no champion``; ``fresh``; ``cooling down`` if the last request is recent; or ``known`` if the champion is
        stale only on images that it was trained on, or that a retraining was requested for before.
    reason : str
    """
    message = "; ".join(staleness.reasons)
    if staleness.version is None:
        return "no champion", message
    if not staleness.stale:
        return "fresh", message
    if last is not None and now < (until := last.time + policy.cooldown_hours * 3600):
        return (
            "cooling down",
            f"a retraining was asked for at {_time(last.time)}; the next one can start at {_time(until)}",
        )
    if not _above(staleness.noise, policy):
        same = "training again on the same images gives the same model"
        if staleness.trained_on_images:
            return "known", f"version {staleness.version} was trained on exactly these images: {same}"
        if last and (last.version, last.images_digest) == (staleness.version, staleness.images_digest):
            return "known", f"a retraining on these images was asked for at {_time(last.time)}: {same}"
    return "retrain", message


def log_staleness(staleness: Staleness, outcome: str, flow_run_id: str | None) -> str:
    """Store a check as a finished run of the experiment ``<model_name> staleness``, and return the run's id.

    Parameters
    ----------
    staleness : Staleness
    outcome : str
        As `decide_retraining` returns it.
    flow_run_id : str, optional
        The flow run of the check, not of the training.
    """
    client = connect()
    tags = {
        "outcome": outcome,
        "version": staleness.version,
        "images_digest": staleness.images_digest,
        "reasons": "; ".join(staleness.reasons)[:TAG_LENGTH],
        FLOW_RUN: flow_run_id,
    }
    experiment = _experiment(staleness.model_name)
    run = client.create_run(
        experiment_id(client, experiment, {CHECKS: staleness.model_name}),
        tags={key: value for key, value in tags.items() if value is not None},
        run_name=f"version {staleness.version}: {outcome}" if staleness.version else outcome,
    )
    run_id, status = str(run.info.run_id), "FAILED"
    try:
        log_metrics(run_id, _metrics(staleness))
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return run_id


def last_retraining(model_name: str) -> RetrainingRequest | None:
    """Return the last retraining request; None if there is none."""
    client = connect()
    experiment = client.get_experiment_by_name(_experiment(model_name))
    if experiment is None:
        return None
    newest_first = ["attributes.start_time DESC"]
    runs = client.search_runs(
        [experiment.experiment_id], "tags.outcome = 'retrain'", order_by=newest_first, max_results=1
    )
    if not runs:
        return None
    info, tags = runs[0].info, runs[0].data.tags
    return RetrainingRequest(
        time=info.start_time / 1000, version=tags["version"], images_digest=tags.get("images_digest")
    )


def _experiment(model_name: str) -> str:
    return f"{model_name} staleness"


def _metrics(staleness: Staleness) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, drift in (("noise", staleness.noise), ("images", staleness.images)):
        if drift is not None:
            values |= {f"{name}_mse": drift.mse, f"{name}_drift": drift.rise}
            values |= {f"{name}_drift_low": drift.low, f"{name}_drift_high": drift.high}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def staleness_markdown(staleness: Staleness, outcome: str, reason: str) -> str:
    """Return a check and its outcome as Markdown."""
    version = f" version {staleness.version}" if staleness.version else ""
    reasons = [f"- {text}" for text in staleness.reasons]
    return "\n".join([f"# {staleness.model_name}{version}: {outcome}", "", reason, "", *reasons, ""])


def _above(drift: Drift | None, policy: StalenessPolicy) -> bool:
    return drift is not None and drift.low > policy.limit


def _reason(what: str, drift: Drift | None, policy: StalenessPolicy, trouble: str) -> str:
    if drift is None:
        return f"{what}: not judged: {trouble or 'no kind of noise has a recorded MSE and two images'}"
    interval = f"{drift.low:+.0%} to {drift.high:+.0%} at {policy.confidence:.0%} confidence"
    comparison = (
        f"MSE {drift.mse:.5f} on {drift.count:,} images, recorded {drift.reference:.5f}: {drift.rise:+.0%}, {interval}"
    )
    position = "above" if _above(drift, policy) else "not shown to be above"
    return f"{what}: {comparison}; {position} the limit of {policy.limit:+.0%}"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
