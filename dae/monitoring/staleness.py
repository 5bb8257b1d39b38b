"""Staleness: whether the champion does worse than when it was scored, under new noise or on new images, and what follows."""

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
    """When the champion counts as stale, and when it is trained again."""

    model_name: Annotated[str, Field(pattern=NAME)] = "dae"
    watch: Annotated[str, Field(min_length=1)] | None = Field(
        "incoming", description="a folder of new, clean images; None: only the noise is drawn anew"
    )
    limit: Positive = Field(0.2, description="by how much of the recorded MSE the MSE may have risen")
    confidence: Annotated[float, BeforeValidator(reject_bool), Field(ge=0.5, lt=1)] = Field(
        0.95, description="of the bootstrap interval, whose lower end must be above the limit: luck is not enough"
    )
    min_images: Count = Field(100, description="fewer new images are not judged")
    cooldown_hours: Annotated[float, BeforeValidator(reject_bool), Field(ge=0, le=87_600)] = Field(
        72.0, description="for so long after a retraining was asked for no other one is"
    )
    deployment: str = Field("train-denoiser/retrain", description="what a retraining is asked of")


class Staleness(FrozenModel):
    """What a check found.

    Attributes
    ----------
    version : str or None
        The champion; None if there is none.
    noise, images : Drift or None
        Under new noise on its validation images, and on the new images; None where it was not judged, as `reasons` says.
    images_digest : str or None
        Of the bytes of the new images that were judged, whatever their files are called.
    trained_on_images : bool
        Whether the champion was trained on just these new images already, and is stale on them all the same.
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
    """When a retraining was asked for, in seconds since the epoch, and because of which champion and which new images."""

    time: float
    version: str
    images_digest: str | None


def check_staleness(policy: StalenessPolicy, seed: int) -> Staleness:
    """Score the champion once more: its validation images under new noise, and the new images if there are enough.

    What is stored meanwhile is gone when it ends, however it does.

    Parameters
    ----------
    policy : StalenessPolicy
    seed : int
        Of the noise.

    Raises
    ------
    DataError
        If a new image cannot be read, or has another shape than those the champion was trained on.
    ModelError
        If the champion does not load, or what it makes of an image is not finite.
    TrackingError
        If its run did not record what is needed to compare.
    """
    name, version = policy.model_name, registry.find_champion(policy.model_name)
    if version is None:
        return Staleness(model_name=name, version=None, stale=False, reasons=(f"{name} has no champion",))
    logger.info("staleness: version %s of %s, under noise of seed %d", version, name, seed)
    with storage.scratch_folder("staleness") as work:
        champion = ScoredVersion(f"models:/{name}/{version}", work)
        patch = champion.config.data.patch  # the new images come first: a bad file is told before anything takes long
        new = new_images.read_new_images(policy.watch, policy.min_images, champion.shape, patch, work / "new")
        held_out = champion.held_out()
        noise = champion.measure(held_out, seed, policy.confidence) if held_out else None
        images = champion.measure(new.images, seed, policy.confidence) if new.images else None
        in_vain = policy.watch is not None and _above(images, policy) and champion.was_trained_on(policy.watch)
    gone = "" if held_out else f"the validation images of version {version} can no longer be had"
    reasons = (_told("new noise", noise, policy, gone), _told("new images", images, policy, new.trouble))
    return Staleness(
        model_name=name,
        version=version,
        noise=noise,
        images=images,
        images_digest=new.digest,
        stale=_above(noise, policy) or _above(images, policy),
        reasons=reasons,
        trained_on_images=in_vain,
    )


def decide_retraining(
    staleness: Staleness, last: RetrainingRequest | None, policy: StalenessPolicy, now: float
) -> tuple[StalenessOutcome, str]:
    """Return what follows from a check, and why. Pure.

    Parameters
    ----------
    staleness : Staleness
    last : Fired, optional
        The last retraining that was asked for.
    policy : StalenessPolicy
    now : float
        In seconds since the epoch.

    Returns
    -------
    outcome : str
        ``retrain``; or ``no champion``; ``fresh``; ``cooling down``, where a retraining was asked for not long ago; ``known``,
        where the champion is stale on nothing but images that training again was asked for, or was done on, already.
    reason : str
    """
    said = "; ".join(staleness.reasons)
    if staleness.version is None:
        return "no champion", said
    if not staleness.stale:
        return "fresh", said
    if last is not None and now < (until := last.time + policy.cooldown_hours * 3600):
        return "cooling down", f"a retraining was asked for at {_time(last.time)}; none is again before {_time(until)}"
    if not _above(staleness.noise, policy):
        same = "training again on the same images gives the same model"
        if staleness.trained_on_images:
            return "known", f"version {staleness.version} was trained on these very images: {same}"
        asked = last and (last.version, last.images_digest) == (staleness.version, staleness.images_digest)
        if last and asked:
            return "known", f"a retraining on these images was asked for at {_time(last.time)}: {same}"
    return "retrain", said


def log_staleness(staleness: Staleness, outcome: str, flow_run_id: str | None) -> str:
    """Store a check as a finished run of the experiment ``<model_name> staleness``, and return the run's id.

    Parameters
    ----------
    staleness : Staleness
    outcome : str
        As `decide_retraining` returns it.
    flow_run_id : str, optional
        Of the flow run that checked, not of the one that trains.
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
    created = client.create_run(
        experiment_id(client, experiment, {CHECKS: staleness.model_name}),
        tags={key: value for key, value in tags.items() if value is not None},
        run_name=f"version {staleness.version}: {outcome}" if staleness.version else outcome,
    )
    run_id, status = str(created.info.run_id), "FAILED"
    try:
        log_metrics(run_id, _metrics(staleness))
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return run_id


def last_retraining(model_name: str) -> RetrainingRequest | None:
    """Return when a retraining was asked for last, and because of what; None if none ever was."""
    client = connect()
    experiment = client.get_experiment_by_name(_experiment(model_name))
    if experiment is None:
        return None
    newest = ["attributes.start_time DESC"]
    found = client.search_runs([experiment.experiment_id], "tags.outcome = 'retrain'", order_by=newest, max_results=1)
    if not found:
        return None
    info, tags = found[0].info, found[0].data.tags
    return RetrainingRequest(
        time=info.start_time / 1000, version=tags["version"], images_digest=tags.get("images_digest")
    )


def _experiment(model_name: str) -> str:
    return f"{model_name} staleness"


def _metrics(staleness: Staleness) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, found in (("noise", staleness.noise), ("images", staleness.images)):
        if found is not None:
            values |= {f"{name}_mse": found.mse, f"{name}_drift": found.rise}
            values |= {f"{name}_drift_low": found.low, f"{name}_drift_high": found.high}
    return {key: value for key, value in values.items() if math.isfinite(value)}


def staleness_markdown(staleness: Staleness, outcome: str, reason: str) -> str:
    """Return a check and what followed as Markdown."""
    version = f" version {staleness.version}" if staleness.version else ""
    found = [f"- {each}" for each in staleness.reasons]
    return "\n".join([f"# {staleness.model_name}{version}: {outcome}", "", reason, "", *found, ""])


def _above(drift: Drift | None, policy: StalenessPolicy) -> bool:
    return drift is not None and drift.low > policy.limit


def _told(what: str, drift: Drift | None, policy: StalenessPolicy, trouble: str) -> str:
    if drift is None:
        return f"{what}: not judged: {trouble or 'no kind of noise has a recorded MSE and two images'}"
    interval = f"{drift.low:+.0%} to {drift.high:+.0%} at {policy.confidence:.0%} confidence"
    found = (
        f"MSE {drift.mse:.5f} on {drift.count:,} images, recorded {drift.reference:.5f}: {drift.rise:+.0%}, {interval}"
    )
    verdict = "above" if _above(drift, policy) else "not shown to be above"
    return f"{what}: {found}; {verdict} the limit of {policy.limit:+.0%}"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
