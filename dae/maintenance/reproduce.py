"""Reproduction: a run made again from what it recorded, and its scores beside those of the first time."""

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
"""For so long `dae gc` leaves the run that is made again alone, whatever its age."""


class DigestComparison(FrozenModel):
    """A digest of images or noise, as recorded and as found; None where there is none. One not recorded agrees with any."""

    name: str
    recorded: str | None
    found: str | None
    agrees: bool


class Reproduction(FrozenModel):
    """What came out: both runs, the code that trained, scores and digests side by side, and what else was different."""

    run_id: str
    reproduced_by: str
    tolerance: float
    code: str
    scores: tuple[ScoreComparison, ...]
    digests: tuple[DigestComparison, ...]
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every score is within the tolerance, and was found on the same images and noise."""
        return all(each.agrees for each in self.scores) and all(each.agrees for each in self.digests)

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if self.agrees:
            return f"Reproduced: every score within {_percent(self.tolerance)}."
        apart = [f"{each.name} {_difference_text(each)}" for each in self.scores if not each.agrees]
        return f"Not reproduced: {'; '.join([f'{d.name} is another' for d in self.digests if not d.agrees] + apart)}."


def reproduce(reference: str, tolerance: float, output: IO[str], *, here: bool = False) -> Reproduction:
    """Train a run again from its recorded configuration, data and commit, as a run of its own, and compare the scores.

    Parameters
    ----------
    reference : str
        As `recorded.find_run` takes it.
    tolerance : float
        Largest relative difference of a mean squared error that agrees.
    output : file
        Gets the notes, and what the training says.
    here : bool
        Train with the present code whatever the run's commit is.

    Raises
    ------
    TrackingError, ModelError
        If there is no such run, or it has no result.
    DataError
        If the images are not those of the run.
    RetrainingError
        If the training does not come to its end.
    """
    compare_runs.require_tolerance(tolerance)
    first = runs.read_run(runs.find_run(reference))
    compare_runs.require_finished(first)
    protect_run(first.run_id, HOURS)
    chosen = rerun.choose_code(first.commit, here=here)
    notes = [*_dirty(first), *compare_runs.environment_differences(first), *require_images(first)]
    for line in (f"reproduce: run {first.run_id}, with {chosen.note}", *(f"note: {note}" for note in notes)):
        output.write(f"{line}\n")
    second = runs.read_run(_train(first, chosen, output))
    if chosen.commit not in (None, second.commit):
        raise RerunError(f"the training must have run at commit {chosen.commit}, and says {second.commit}")
    notes += [note for note in compare_runs.other_machine(first.machine, second.machine) if note not in notes]
    found = Reproduction(
        run_id=first.run_id,
        reproduced_by=second.run_id,
        tolerance=tolerance,
        code=chosen.note,
        scores=compare_runs.compare_scores(first.scores, second.scores, tolerance),
        digests=tuple(_digests(first, second)),
        notes=tuple(notes),
    )
    set_tags(second.run_id, {OUTCOME: found.sentence[:5000]})
    return found


def require_images(run: RecordedRun) -> list[str]:
    """Refuse images other than those a run had; return what is to be noted.

    An ingest of another release may name the same images differently, so that what counts in the end is their pixels.

    Raises
    ------
    DataError
        Naming both digests.
    """
    wanted = run.digests.get("data_digest")
    if wanted is None:
        return ["the run did not record which images it had"]
    try:
        config = loading.validate(add_former_defaults(run.tree)).data
    except ConfigError as error:
        return [f"the images were not checked beforehand: the present code does not take the configuration: {error}"]
    images = datasets.ingest(config)
    if images.digest == wanted:
        return []
    if run.pixels and run.pixels == _pixels(images):
        return [f"the images have digest {images.digest}, recorded is {wanted}; their pixels are the same"]
    rule = f"must give the images that run {run.run_id} was trained on, of digest {wanted}"
    raise DataError(config.source, rule, f"others, of digest {images.digest}")


def _pixels(images: ImageSets) -> dict[str, str]:
    return {split: getattr(images, split).sha256 for split in ("train", "validation", "test")}


def _dirty(run: RecordedRun) -> list[str]:
    return (
        ["the run was made from a checkout with changes that were not committed, which its commit lacks"]
        if run.dirty
        else []
    )


def _train(first: RecordedRun, chosen: SourceCode, output: IO[str]) -> str:
    """Train, and return the id of the run; it is marked, and what was registered is removed, however that ends."""
    model = f"{first.tree['tracking']['model_name']}-reproduction-{uuid.uuid4().hex[:8]}"
    recorded_tree = add_former_defaults(first.tree) if chosen.commit is None else first.tree
    tree = rerun.make_rerun_config(recorded_tree, f"reproduction of {first.run_id[:8]}", model)
    try:
        rerun.run_training(tree, chosen, first.machine, output)
    finally:
        made = _own(model, first.run_id)
    if made is None:
        raise RerunError("the training made no run; what it said stands above")
    return made


def _own(model: str, run_id: str) -> str | None:
    """Find the run that trained a registered model which nobody else has, mark it, and remove the registered model."""
    client = connect()
    experiments = [each.experiment_id for each in client.search_experiments()]
    found = client.search_runs(experiments, f"params.`tracking.model_name` = '{model}'", max_results=1)
    for registered in client.search_registered_models(f"name = '{model}'"):
        client.delete_registered_model(registered.name)
    if not found:
        return None
    made = str(found[0].info.run_id)
    set_tags(made, {REPRODUCES: run_id})
    for tag in {"model_version", "verdict"} & found[0].data.tags.keys():  # of a version that is no more
        client.delete_tag(made, tag)
    return made


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
