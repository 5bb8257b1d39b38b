"""Reproduction: a run is trained again from its records, and the scores of both runs are compared."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import IO

from dae.config import loading
from dae.config.schema import ConfigError, add_former_defaults
from dae.data import datasets
from dae.data.arrays import DataError
from dae.maintenance import compare_runs, rerun
from dae.maintenance.compare_runs import ScoreComparison
from dae.maintenance.rerun import RerunError, SourceCode
from dae.schemas import FrozenModel, ImageSets
from dae.tracking import runs
from dae.tracking.client import connect
from dae.tracking.run_logging import set_tags
from dae.tracking.runs import RecordedRun, protect_run

REPRODUCES, OUTCOME = "dae.reproduces", "dae.reproduction"
HOURS = 24
"""Hours during which `dae gc` keeps the run that is reproduced, whatever its age."""


class DigestComparison(FrozenModel):
    """A digest of images or noise, as recorded and as found; None if it is missing. A missing record agrees with any digest."""

    name: str
    recorded: str | None
    found: str | None
    agrees: bool


class Reproduction(FrozenModel):
    """The result: both runs, the code that trained, the compared scores and digests, and other differences as notes."""

    run_id: str
    reproduced_by: str
    tolerance: float
    code: str
    scores: tuple[ScoreComparison, ...]
    digests: tuple[DigestComparison, ...]
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every score is within the tolerance, on the same images and noise."""
        return all(score.agrees for score in self.scores) and all(digest.agrees for digest in self.digests)

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.agrees:
            return f"Reproduced: every score within {_percent(self.tolerance)}."
        differences = [f"{digest.name} is another" for digest in self.digests if not digest.agrees]
        differences += [f"{score.name} {_difference_text(score)}" for score in self.scores if not score.agrees]
        return f"Not reproduced: {'; '.join(differences)}."


def reproduce(reference: str, tolerance: float, output: IO[str], *, here: bool = False) -> Reproduction:
    """Train a run again from its recorded configuration, data and commit, and compare the scores of both runs.

    Parameters
    ----------
    reference : str
        A run, as `dae.tracking.runs.find_run` accepts it.
    tolerance : float
        Largest relative difference between two mean squared errors that agree.
    output : file
        Receives the notes and the output of the training.
    here : bool
        Train with the present code, whatever the commit of the run is.

    Raises
    ------
    TrackingError, ModelError
        If there is no such run, or it has no result.
    DataError
        If the images are not those of the run.
    RerunError
        If the training fails.
    """
    compare_runs.require_tolerance(tolerance)
    first = runs.read_run(runs.find_run(reference))
    compare_runs.require_finished(first)
    protect_run(first.run_id, HOURS)
    code = rerun.choose_code(first.commit, here=here)
    notes = [*_dirty(first), *compare_runs.environment_differences(first), *require_images(first)]
    for line in (f"reproduce: run {first.run_id}, with {code.note}", *(f"note: {note}" for note in notes)):
        output.write(f"{line}\n")
    second = runs.read_run(_train(first, code, output))
    if code.commit not in (None, second.commit):
        raise RerunError(f"the training must run at commit {code.commit}, but it recorded {second.commit}")
    notes += [note for note in compare_runs.other_machine(first.machine, second.machine) if note not in notes]
    reproduction = Reproduction(
        run_id=first.run_id,
        reproduced_by=second.run_id,
        tolerance=tolerance,
        code=code.note,
        scores=compare_runs.compare_scores(first.scores, second.scores, tolerance),
        digests=tuple(_digests(first, second)),
        notes=tuple(notes),
    )
    set_tags(second.run_id, {OUTCOME: reproduction.sentence[:5000]})
    return reproduction


def require_images(run: RecordedRun) -> list[str]:
    """Refuse images other than those of a run; return notes on what could not be checked or differs.

    Another release of the ingest may give the same images another digest. So the pixels decide in the end.

    Raises
    ------
    DataError
        Naming both digests.
    """
    recorded_digest = run.digests.get("data_digest")
    if recorded_digest is None:
        return ["the run did not record its images"]
    try:
        config = loading.validate(add_former_defaults(run.tree)).data
    except ConfigError as error:
        return [f"the images were not checked beforehand: the present code does not accept the configuration: {error}"]
    images = datasets.ingest(config)
    if images.digest == recorded_digest:
        return []
    if run.pixels and run.pixels == _pixels(images):
        return [f"the images have digest {images.digest}, recorded is {recorded_digest}; their pixels are the same"]
    rule = f"must give the images that run {run.run_id} was trained on, of digest {recorded_digest}"
    raise DataError(config.source, rule, f"others, of digest {images.digest}")


def _pixels(images: ImageSets) -> dict[str, str]:
    return {split: getattr(images, split).sha256 for split in ("train", "validation", "test")}


def _dirty(run: RecordedRun) -> list[str]:
    return (
        ["the run was made from a checkout with changes that were not committed, so its commit is not the whole code"]
        if run.dirty
        else []
    )


def _train(first: RecordedRun, code: SourceCode, output: IO[str]) -> str:
    """Train, tag the new run, and return its id. The registered model of the training is removed even if it fails."""
    model = f"{first.tree['tracking']['model_name']}-reproduction-{uuid.uuid4().hex[:8]}"
    recorded_tree = add_former_defaults(first.tree) if code.commit is None else first.tree
    tree = rerun.make_rerun_config(recorded_tree, f"reproduction of {first.run_id[:8]}", model)
    try:
        rerun.run_training(tree, code, first.machine, output)
    finally:
        run_id = _claim_run(model, first.run_id)
    if run_id is None:
        raise RerunError("the training created no run; its output is above")
    return run_id


def _claim_run(model: str, first_run_id: str) -> str | None:
    """Find the run that trained a model of a unique name, tag it, and remove the registered model; None if there is none."""
    client = connect()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    matches = client.search_runs(experiments, f"params.`tracking.model_name` = '{model}'", max_results=1)
    for registered in client.search_registered_models(f"name = '{model}'"):
        client.delete_registered_model(registered.name)
    if not matches:
        return None
    run_id = str(matches[0].info.run_id)
    set_tags(run_id, {REPRODUCES: first_run_id})
    for tag in {"model_version", "verdict"} & matches[0].data.tags.keys():  # their version is deleted
        client.delete_tag(run_id, tag)
    return run_id


def _digests(first: RecordedRun, second: RecordedRun) -> Iterator[DigestComparison]:
    same_pixels = bool(first.pixels) and first.pixels == second.pixels
    for name in runs.DIGESTS:
        then, now = first.digests.get(name), second.digests.get(name)
        agrees = then in (None, now) or (name == "data_digest" and same_pixels)
        yield DigestComparison(name=name, recorded=then, found=now, agrees=agrees)


def _difference_text(score: ScoreComparison) -> str:
    if score.difference is None:
        return f"was {_plain(score.recorded)} and is {_plain(score.found)}"
    return f"is {_percent(abs(score.difference))} {'above' if score.difference > 0 else 'below'} the recorded one"


def _plain(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"
