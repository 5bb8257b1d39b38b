"""What may go and what stays: the choice on plain records, and removal on a real store."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from dae import storage
from dae.cli import app
from dae.config.schema import ConfigError, ModelConfig
from dae.maintenance import cleanup, inventory, retention
from dae.maintenance.inventory import ACTIVE, Folder, Inventory, Run, Version, What
from dae.maintenance.retention import RetentionPolicy
from dae.networks import build
from dae.promotion import audit_log, history, registry
from dae.promotion.history import AuditEntry
from dae.tracking import log_model, models
from dae.tracking.client import connect, experiment_id
from dae.tracking.runs import DIGESTS as DIGEST_TAGS
from dae.tracking.runs import protect_run

DAY = 86400.0
NOW = 2_000_000_000.0
EVENTS: tuple[history.Event, ...] = ("promoted", "forced", "refused", "rolled back", "found")
STATUSES = ("FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED")


def dae(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


# The choice, on plain records


def run_id(number: int) -> str:
    return f"{number:032x}"


def model_id(number: int) -> str:
    return f"m-{number:032x}"


def entry(number: int, event: history.Event, version: str | None, champion: str | None) -> AuditEntry:
    at = datetime.fromtimestamp(NOW - 1000 * DAY + number, UTC)
    return AuditEntry(number=number, id=str(number), at=at, event=event, version=version, champion=champion, who="a")


@st.composite
def audit_logs(draw: st.DrawFn, versions: Sequence[str]) -> tuple[AuditEntry, ...]:
    entries: list[AuditEntry] = []
    live: str | None = None
    for number in range(1, draw(st.integers(0, 8)) + 1):
        event = draw(st.sampled_from(EVENTS))
        version = draw(st.sampled_from(versions))
        live = live if event == "refused" else version
        entries.append(entry(number, event, version, live))
    return tuple(entries)


DIGESTS = st.frozensets(st.sampled_from(["d1", "d2", "n1", "n2"]), max_size=2)
AGES = st.floats(0, 90)
NAMES = ("dae", "other")


@st.composite
def runs(draw: st.DrawFn, number: int) -> Run:
    status = draw(st.sampled_from(STATUSES))
    started = NOW - draw(AGES) * DAY
    return Run(
        run_id=run_id(number),
        name=str(number),
        status=status,
        started=started,
        ended=None if status in ACTIVE else started + 1,
        ours=draw(st.booleans()) or draw(st.booleans()),
        model_name=draw(st.sampled_from([*NAMES, None])),
        models=(model_id(number),) if draw(st.booleans()) else (),
        digests=draw(DIGESTS),
        needed_until=draw(st.sampled_from([0.0, NOW - 1, NOW + 1])),
    )


@st.composite
def versions(draw: st.DrawFn, name: str, number: int, count: int) -> Version:
    """Return a version of one of `count` runs' models, or a copy of another version."""
    of = draw(st.integers(0, count - 1))
    source = draw(st.sampled_from([f"models:/{model_id(of)}", f"file:///artifacts/{run_id(of)}/artifacts/model"]))
    if draw(st.integers(0, 4)) == 0:
        source = f"models:/{draw(st.sampled_from(NAMES))}/{draw(st.integers(1, 5))}"
    return Version(
        name=name,
        number=str(number),
        source=source,
        run_id=draw(st.sampled_from([run_id(of), None])),
        aliases=draw(st.sampled_from([(), (), (), ("champion",), ("anything",)])),
        digests=draw(DIGESTS),
    )


@st.composite
def folders(draw: st.DrawFn, count: int) -> list[Folder]:
    made = [
        Folder(
            what=draw(st.sampled_from(["images", "noise", "draft"])),
            path=f"images/{number}",
            used=NOW - draw(AGES) * DAY,
            digests=draw(DIGESTS),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    owners = draw(st.sets(st.sampled_from([run_id(number) for number in range(count + 1)])))
    return made + [
        Folder(what="checkpoint", path=f"checkpoints/{owner}", used=NOW - draw(AGES) * DAY, run_id=owner)
        for owner in sorted(owners)
    ]


@st.composite
def states(draw: st.DrawFn) -> Inventory:
    count = draw(st.integers(1, 8))
    registered = [
        draw(versions(name, number, count)) for name in NAMES for number in range(1, draw(st.integers(1, 5)) + 1)
    ]
    numbers = {name: [each.number for each in registered if each.name == name] + ["99"] for name in NAMES}
    return Inventory(
        runs=tuple(draw(runs(number)) for number in range(count)),
        versions=tuple(registered),
        audit_logs={name: draw(audit_logs(numbers[name])) for name in NAMES},
        folders=tuple(draw(folders(count))),
    )


@given(states(), st.floats(0.5, 60), st.integers(1, 4), st.sampled_from([(), ("dae",)]))
def test_nothing_protected_is_ever_chosen(
    state: Inventory, days: float, champions: int, names: tuple[str, ...]
) -> None:
    choice = retention.plan_cleanup(
        state, RetentionPolicy(older_than=days * DAY, champions=champions, names=names), NOW
    )
    chosen = {item.id for item in choice.items}
    runs = {run.run_id: run for run in state.runs}
    running = [run for run in state.runs if run.status in ACTIVE]
    kept = {run.run_id for run in running} | {run.run_id for run in state.runs if run.needed_until > NOW}
    needed = frozenset[str]().union(*(runs[each].digests for each in kept))
    live = {name: history.past_champions(entries)[:champions] for name, entries in state.audit_logs.items()}
    safe = {(each.name, each.number) for each in state.versions if each.aliases or each.number in live[each.name]}
    for _ in state.versions:  # copies of copies
        origins = [retention.COPY.fullmatch(each.source) for each in state.versions if (each.name, each.number) in safe]
        safe |= {(origin[1], origin[2]) for origin in origins if origin}
    for version in state.versions:
        if (version.name, version.number) in safe:
            needed |= version.digests
            kept |= {run.run_id for run in state.runs if {run.run_id, *run.models} & retention.references(version)}
    assert not chosen & kept
    for run in state.runs:
        if run.run_id in chosen:
            assert run.ours
            assert run.ended is not None
            assert NOW - run.ended > days * DAY
            assert not names or run.model_name in names
    for folder in state.folders:
        if folder.path in chosen:
            assert NOW - folder.used > days * DAY
            assert not folder.digests & needed
            assert all(folder.used < run.started for run in running)
            assert folder.run_id not in kept
            owner = runs.get(folder.run_id or "")
            assert owner is None or owner.status == "FINISHED" or owner.run_id in chosen
            assert not names or folder.run_id in chosen
    assert len(choice.items) + sum(each.count for each in choice.kept) == len(state.runs) + len(state.folders)


def finished(number: int, days: float = 100, **fields: Any) -> Run:
    ended = NOW - days * DAY
    base = Run(run_id=run_id(number), name="a", status="FINISHED", started=ended - 60, ended=ended, ours=True)
    return base.model_copy(update=fields)


def chosen(state: Inventory, days: float = 30, **policy: Any) -> set[str]:
    return {
        item.id for item in retention.plan_cleanup(state, RetentionPolicy(older_than=days * DAY, **policy), NOW).items
    }


def test_the_last_champions_are_counted_without_those_refused_and_each_once() -> None:
    events: list[tuple[history.Event, str, str]] = [
        ("promoted", "1", "1"),
        ("promoted", "2", "2"),
        ("refused", "3", "2"),
        ("forced", "4", "4"),
        ("rolled back", "2", "2"),
        ("promoted", "5", "5"),
    ]
    entries = tuple(entry(number, *each) for number, each in enumerate(events, 1))
    versions = tuple(
        Version(name="dae", number=str(n), source=f"models:/{model_id(n)}", run_id=run_id(n)) for n in range(1, 6)
    )
    state = Inventory(runs=tuple(finished(n) for n in range(1, 6)), versions=versions, audit_logs={"dae": entries})
    kept = {
        count: {n for n in range(1, 6) if run_id(n) not in chosen(state, champions=count)} for count in (1, 2, 3, 4)
    }
    # the last two are 5 and 2, the last three 5, 2 and 4; and what a second rollback would go back to is 1
    assert kept == {1: {5}, 2: {5, 2}, 3: {5, 2, 4, 1}, 4: {5, 2, 4, 1}}


def test_a_champion_in_the_audit_log_is_kept_without_its_version() -> None:
    entries = (entry(1, "promoted", "1", "1").model_copy(update={"run_id": run_id(1)}),)
    assert chosen(Inventory(runs=(finished(1), finished(2)), audit_logs={"dae": entries})) == {run_id(2)}


def test_a_copy_with_an_alias_keeps_what_it_was_copied_from() -> None:
    copy = Version(name="prod", number="1", source="models:/dae/1", run_id=None, aliases=("live",))
    origin = Version(name="dae", number="1", source=f"models:/{model_id(1)}", run_id=None)
    state = Inventory(runs=(finished(1, models=(model_id(1),)), finished(2)), versions=(copy, origin))
    assert chosen(state) == {run_id(2)}


def test_an_age_is_more_than_asked_not_as_much() -> None:
    state = Inventory(runs=(finished(1, days=30), finished(2, days=30.001)))
    assert chosen(state) == {run_id(2)}


def test_a_folder_used_since_the_oldest_running_run_began_stays() -> None:
    running = finished(1, status="RUNNING", started=NOW - 50 * DAY, ended=None)
    folders = [Folder(what="images", path=f"images/{days}", used=NOW - days * DAY) for days in (49, 51)]
    assert chosen(Inventory(runs=(running,), folders=tuple(folders))) == {"images/51"}
    assert chosen(Inventory(folders=tuple(folders))) == {"images/49", "images/51"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 12 * 3600), ("30d", 30 * DAY), ("8w", 56 * DAY), ("1.5d", 1.5 * DAY)]
)
def test_ages(text: str, seconds: float) -> None:
    assert retention.parse_age(text) == seconds


@pytest.mark.parametrize("text", ["30", "d", "-3d", "0d", "0.0w", "3m", "3 days", "1e3d", "", "infd", "nanh"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="such as 12h, 30d or 8w, received"):
        retention.parse_age(text)


# A real store


class World:
    """Runs, versions and cached folders of many ages."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client = connect()
        self.now = time.time()
        self.experiment = experiment_id(self.client, "denoising")

    def run(self, days: float, status: str = "FINISHED", digest: str = "", model: str = "dae", **tags: str) -> str:
        """Make a run that ended so many days ago, with an artifact and a parameter."""
        start = int((self.now - days * DAY - 60) * 1000)
        tags = {"config_digest": "c", "data_digest": f"data{digest}", "noise_digest.test": f"noise{digest}"} | tags
        made = self.client.create_run(self.experiment, start_time=start, tags=tags, run_name=f"{status}-{days}")
        run_id = str(made.info.run_id)
        self.client.log_text(run_id, "x" * 1000, "scores.json")
        self.client.log_param(run_id, "tracking.model_name", model)
        self.client.log_metric(run_id, "best_val_mse", 0.01)
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, end_time=start + 60_000)
        return run_id

    def version(self, run_id: str, name: str = "dae", *, real: bool = False, **tags: str) -> str:
        """Log a model of a run, and register it."""
        if real:
            network = build.build_network(ModelConfig(width=4, deep_width=4), (8, 8, 1))
            model_id, uri = log_model.log_model(run_id, network, np.zeros((1, 8, 8, 1), np.float32), name)
        else:
            made = self.client.create_logged_model(self.experiment, name=name, source_run_id=run_id)
            self.client.finalize_logged_model(made.model_id, "READY")
            folder = Path(made.artifact_location.removeprefix("file://"))
            folder.mkdir(parents=True)
            (folder / "model.keras").write_bytes(b"m" * 5000)
            model_id, uri = made.model_id, made.model_uri
        registry._ensure_model(name)
        run_tags = self.client.get_run(run_id).data.tags
        digests = {key: run_tags[key] for key in DIGEST_TAGS if key in run_tags}
        found = self.client.create_model_version(name, uri, run_id, tags=digests | tags, model_id=model_id)
        return str(found.version)

    def promote(self, version: str, name: str = "dae", event: str = "promoted") -> None:
        audit_log.append_entry(
            name, audit_log.read_entries(name), event=event, version=version, champion=version, who="a"
        )
        registry.set_alias(name, "champion", version)

    def folder(self, path: str, days: float, **manifest: str) -> Path:
        """Make a folder of the cache that was last used so many days ago."""
        folder = self.home / ".dae" / path
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for each in (folder / "manifest.json", folder):
            os.utime(each, (self.now - days * DAY,) * 2)
        return folder

    def runs(self) -> set[str]:
        found = self.client.search_runs([each.experiment_id for each in self.client.search_experiments()])
        return {run.info.run_id for run in found if "dae.ledger" not in run.data.tags}

    def folders(self) -> set[str]:
        return {folder.path for folder in inventory.cached_folders()}

    def files(self) -> dict[str, tuple[int, int]]:
        found = [path for path in self.home.rglob("*") if "mlflow.db" not in path.name]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    def rows(self) -> dict[str, list[Any]]:
        with sqlite3.connect(self.home / "mlruns" / "mlflow.db") as base:
            tables = [row[0] for row in base.execute("select name from sqlite_master where type = 'table'")]
            found = {table: base.execute(f"select * from {table}").fetchall() for table in tables}
        base.close()
        return found


@pytest.fixture
def world(request: pytest.FixtureRequest, home: Path) -> World:
    """The store of the test: the full one if it asks for the ids of that, or an empty one."""
    request.getfixturevalue("ids" if "ids" in request.fixturenames else "mlflow_store")
    return World(home)


@pytest.fixture(scope="module")
def full(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A home with everything in it, and the ids of its runs by what they are."""
    home = tmp_path_factory.mktemp("full")
    (home / "mlruns").mkdir()
    shutil.copy(migrated, home / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return home, fill(World(home))


@pytest.fixture
def ids(home: Path, full: tuple[Path, dict[str, str]]) -> dict[str, str]:
    """A copy of that home as the test's own, and the ids."""
    shutil.copytree(full[0], home, dirs_exist_ok=True)
    rewrite(home / "mlruns" / "mlflow.db", str(full[0]), str(home))
    return full[1]


def rewrite(database: Path, before: str, after: str) -> None:
    """Let a database that was copied with its artifacts name them where they are now."""
    with sqlite3.connect(database) as base:
        tables = [row[0] for row in base.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in base.execute(f"pragma table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    base.execute(f'update {table} set "{column}" = replace("{column}", ?, ?)', (before, after))
    base.close()


def fill(world: World) -> dict[str, str]:
    """Fill the store; return the ids of the runs by what they are."""
    ids = {f"champion{number}": world.run(410 - 10 * number, digest=str(number)) for number in range(1, 5)}
    for number in range(1, 5):
        world.promote(world.version(ids[f"champion{number}"], real=number == 4, verdict="promoted"))
    ids["challenger"] = world.run(90, digest="5")
    registry.set_alias("dae", "challenger", world.version(ids["challenger"], verdict="pending"))
    ids["refused"], ids["refused lately"] = world.run(80), world.run(3)
    for name in ("refused", "refused lately"):
        world.version(ids[name], verdict="refused")
    ids["running"] = world.run(50, "RUNNING", digest="running")
    world.version(ids["running"], verdict="pending")
    ids["failed"], ids["killed lately"] = world.run(70, "FAILED"), world.run(2, "KILLED")
    ids["baseline"], ids["baseline lately"] = (world.run(days, kind="baseline") for days in (60, 4))
    ids["another model"] = world.run(85, model="other")
    foreign = world.client.create_run(world.experiment, start_time=1000)
    world.client.set_terminated(foreign.info.run_id, end_time=2000)
    ids["foreign"] = foreign.info.run_id
    for days, digest in ((300, "4"), (300, "1"), (60, "unused"), (40, "used since"), (300, "running"), (2, "young")):
        world.folder(f"images/{digest}", days, digest=f"data{digest}")
        world.folder(f"noisy/{digest}", days, sha256=f"noise{digest}")
    world.folder("images/.torn-abc", 60)
    world.folder("images/.now-abc", 0.1)
    for name, days in (("failed", 70), ("killed lately", 200), ("running", 200), ("champion4", 360), ("refused", 80)):
        world.folder(f"checkpoints/{ids[name]}", days)
    world.folder(f"checkpoints/{'e' * 32}", 200)
    return ids


def test_old_things_go_and_everything_needed_stays(world: World, ids: dict[str, str]) -> None:
    code, out, err = dae("gc", "--older-than", "30d", "--keep-champions", "2", "--delete")
    assert code == 0, err
    gone = {"champion1", "champion2", "refused", "failed", "baseline", "another model"}
    assert world.runs() == {run_id for name, run_id in ids.items() if name not in gone}
    assert {str(each.version) for each in registry.list_versions("dae")} == {"3", "4", "5", "7", "8"}
    assert registry.list_aliases("dae") == {"champion": "4", "challenger": "5"}
    kept = {"4", "used since", "running", "young"}
    checkpoints = {f"checkpoints/{ids[name]}" for name in ("killed lately", "running", "champion4")}
    expected = {f"{kind}/{name}" for name in kept for kind in ("images", "noisy")}
    assert world.folders() == expected | checkpoints | {"images/.now-abc"}
    assert "freed" in out.splitlines()[-1]


def test_what_is_left_works_and_nothing_is_left_of_what_went(world: World, ids: dict[str, str]) -> None:
    before = {model.model_id: model.source_run_id for model in world.client.search_logged_models([world.experiment])}
    assert dae("gc", "--older-than", "30d", "--keep-champions", "2", "--delete")[0] == 0
    restored = mlflow.pyfunc.load_model("models:/dae@champion").predict(np.zeros((2, 8, 8, 1), np.float32))
    assert restored.shape == (2, 8, 8, 1)
    left = world.runs()
    found = mlflow.search_runs([world.experiment])
    assert set(found["run_id"]) == left
    assert {model.source_run_id for model in world.client.search_logged_models([world.experiment])} <= left
    assert [model.name for model in world.client.search_registered_models()] == ["dae"]
    artifacts = world.home / "mlruns" / "artifacts" / "denoising"
    names = {path.name for path in (*artifacts.iterdir(), *(artifacts / "models").iterdir())}
    went = {ids[name] for name in ("champion1", "refused", "failed", "baseline")}
    assert not names & (went | {model for model, run_id in before.items() if run_id in went})
    rows = world.rows()
    for table in ("runs", "params", "tags", "metrics", "logged_models"):
        assert not [row for row in rows[table] if went & {str(value) for value in row}], table
    assert dae("models")[0] == dae("runs")[0] == 0


def test_a_dry_run_changes_nothing_and_says_what_would_go_and_what_stays(world: World, ids: dict[str, str]) -> None:
    before = world.files(), world.rows()
    code, out, _ = dae("gc", "--older-than", "30d", "--keep-champions", "2")
    assert code == 0
    assert (world.files(), world.rows()) == before
    for name in ("champion1", "refused", "failed", "baseline"):
        assert ids[name][:8] in out
    for name in ("champion4", "running", "challenger", "foreign"):
        assert ids[name][:8] not in out
    assert "images/unused" in out
    assert f"Kept: 1 run: {retention.RUNNING}" in out
    assert f"Kept: 1 run: {retention.FOREIGN}" in out
    assert "Nothing was changed. With --delete, 6 runs and " in out
    record = json.loads(dae("gc", "--older-than", "30d", "--keep-champions", "2", "--json")[1])
    assert (record["deleted"], {item["removed"] for item in record["items"]}) == (False, {False})
    sizes = {item["id"]: item["size"] for item in record["items"]}
    assert sizes[ids["refused"]] == 6000
    assert sizes[ids["failed"]] == 1000
    assert (world.files(), world.rows()) == before


def test_the_number_of_champions_kept_is_the_one_asked_for(world: World, ids: dict[str, str]) -> None:
    for count in (1, 2, 3, 4):
        items = json.loads(dae("gc", "--older-than", "30d", "--keep-champions", str(count), "--json")[1])["items"]
        went = {item["id"] for item in items}
        assert [number for number in range(1, 5) if ids[f"champion{number}"] not in went] == list(range(5 - count, 5))


def test_only_the_models_asked_for(world: World, ids: dict[str, str]) -> None:
    folders = world.folders()
    assert dae("gc", "--older-than", "30d", "--name", "other", "--delete")[0] == 0
    assert world.runs() == set(ids.values()) - {ids["another model"]}
    assert world.folders() == folders
    assert dae("gc", "--older-than", "30d", "--name", "dae", "--delete")[0] == 0
    assert world.folders() == folders - {f"checkpoints/{ids[name]}" for name in ("failed", "refused")}


@pytest.mark.parametrize("where", ["aliases", "versions", "audit log", "deleted audit log"])
def test_where_the_registry_or_an_audit_log_cannot_be_read_nothing_goes(
    world: World, ids: dict[str, str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("the database is locked")

    if where == "deleted audit log":
        experiment = world.client.get_experiment_by_name("dae ledger")
        assert experiment is not None
        world.client.delete_experiment(experiment.experiment_id)
    elif where == "audit log":
        monkeypatch.setattr(audit_log, "read_entries", fail)
    else:
        search = {"aliases": "search_registered_models", "versions": "search_model_versions"}[where]
        monkeypatch.setattr(mlflow.MlflowClient, search, fail)
    before = world.files(), world.rows()
    code, _, err = dae("gc", "--older-than", "30d", "--delete")
    assert code == 1
    assert "locked" in err or "was deleted" in err
    assert (world.files(), world.rows()) == before


def test_a_renamed_audit_log_is_an_error(world: World, ids: dict[str, str]) -> None:
    experiment = world.client.get_experiment_by_name("dae ledger")
    assert experiment is not None
    world.client.rename_experiment(experiment.experiment_id, "mine")
    code, _, err = dae("gc", "--older-than", "30d", "--delete")
    assert (code, "'mine' holds the audit log of dae" in err) == (1, True)


def test_what_became_needed_after_it_was_chosen_stays(world: World) -> None:
    runs = [world.run(100) for _ in range(4)]
    versions = [world.version(run_id) for run_id in runs]
    folder = world.folder("images/a", 100, digest="a")
    policy = RetentionPolicy(older_than=30 * DAY)
    items = {item.id: item for item in cleanup.plan(policy).items}
    assert items.keys() == {*runs, "images/a"}
    world.promote(versions[0])
    registry.set_alias("dae", "mine", versions[1])
    protect_run(runs[2], 1)
    os.utime(folder)
    assert [cleanup.remove_item(items[run_id], policy) for run_id in runs] == [False, False, False, True]
    assert not cleanup.remove_item(items["images/a"], policy)
    assert folder.is_dir()
    assert world.runs() == set(runs[:3])
    assert len(registry.list_versions("dae")) == 3


def test_a_version_that_gets_an_alias_in_the_last_moment_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = world.run(100)
    version = world.version(run_id)
    policy = RetentionPolicy(older_than=30 * DAY)
    (item,) = cleanup.plan(policy).items
    read = mlflow.MlflowClient.get_model_version

    def named_just_after(client: mlflow.MlflowClient, name: str, number: str) -> Any:
        found = read(client, name, number)
        client.set_registered_model_alias(name, "champion", number)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "get_model_version", named_just_after)
        assert not cleanup.remove_item(item, policy)
    assert registry.find_alias("dae", "champion") == version
    assert world.runs() == {run_id}
    world.client.delete_registered_model_alias("dae", "champion")  # by anyone else it can be removed as ever


@pytest.mark.parametrize("step", ["_delete_model", "_delete_run", "_delete_files"])
def test_a_removal_that_was_cut_short_is_finished_by_the_next(
    world: World, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.run(100)
    world.version(run_id)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    policy = RetentionPolicy(older_than=DAY)
    (item,) = cleanup.plan(policy).items
    with monkeypatch.context() as patch:
        patch.setattr(cleanup, step, crash)
        with pytest.raises(KeyboardInterrupt):
            cleanup.remove_item(item, policy)
    assert registry.list_versions("dae") == []
    assert world.runs() == {run_id}
    assert dae("gc", "--older-than", "1d", "--delete")[0] == 0
    assert world.runs() == set()
    assert not list((world.home / "mlruns" / "artifacts" / "denoising").rglob("*.*"))


def test_a_folder_that_is_used_while_it_is_moved_aside_is_put_back(world: World) -> None:
    folder = world.folder("images/a", 100)
    looked_at = inventory.reread_folder(Folder(what="images", path="images/a", used=0))
    assert looked_at is not None
    os.utime(folder)
    assert not inventory.remove_folder(looked_at)
    assert (folder / "manifest.json").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["a"]
    looked_at = inventory.reread_folder(looked_at)
    assert looked_at is not None
    assert inventory.remove_folder(looked_at)
    assert list(folder.parent.iterdir()) == []


def test_a_stored_folder_that_is_found_is_as_young_as_its_last_use(tmp_path: Path) -> None:
    os.utime(tmp_path, (1000, 1000))
    marker = tmp_path.with_name(f"{tmp_path.name}-marker")
    marker.touch()
    assert storage.touch_if_exists(tmp_path)
    assert tmp_path.stat().st_mtime >= marker.stat().st_mtime
    assert not storage.touch_if_exists(tmp_path / "none")


def test_a_draft_is_as_young_as_what_was_written_into_it_last(world: World) -> None:
    folder = world.folder("images/.a-xyz", 100)
    (folder / "pool.raw").write_bytes(b"")
    os.utime(folder, (1000, 1000))
    (found,) = inventory.cached_folders()
    assert (found.what, found.used) == ("draft", (folder / "pool.raw").stat().st_mtime)


def test_an_empty_store_has_nothing_to_go(world: World) -> None:
    code, out, _ = dae("gc", "--older-than", "1h")
    assert (code, out) == (0, "There is nothing that may go.\n")


@pytest.mark.slow
def test_through_a_server_runs_are_deleted_there_and_what_remains_is_told(
    home: Path, unused_port: int, wait_for_http: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "server").mkdir()
    url = f"http://127.0.0.1:{unused_port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{home}/server/mlflow.db"]
    command += [
        "--artifacts-destination",
        str(home / "server" / "artifacts"),
        "--port",
        str(unused_port),
        "--workers",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home) as server:
        try:
            assert "MLflow" in wait_for_http(url)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            world = World(home)
            runs = [world.run(100 - number) for number in range(3)]
            for run_id in runs:
                network = build.build_network(ModelConfig(width=4, deep_width=4), (8, 8, 1))
                model_id, uri = log_model.log_model(run_id, network, np.zeros((1, 8, 8, 1), np.float32), "dae")
                registry._ensure_model("dae")
                world.client.create_model_version("dae", uri, run_id, model_id=model_id)
            world.promote("3")
            registry.set_alias("dae", "challenger", "2")
            code, out, err = dae("gc", "--older-than", "30d", "--delete")
            assert code == 0, err
            assert "mlflow gc" in out
            assert world.runs() == set(runs[1:])
            assert [str(each.version) for each in registry.list_versions("dae")] == ["3", "2"]
            assert registry.list_aliases("dae") == {"champion": "3", "challenger": "2"}
            assert len(world.client.search_logged_models([world.experiment])) == 2
            assert not [path for path in (home / "server").rglob("*.json") if runs[0] in str(path)]
            assert models.load_model("models:/dae@champion").input_shape[-1] == 1
            assert dae("gc", "--older-than", "30d")[1].endswith("There is nothing that may go.\n")
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--older-than", "30"], "such as 12h, 30d or 8w, received 30"),
        ([], "--older-than"),
        (["--older-than", "3d", "--keep-champions", "0"], "--keep-champions"),
    ],
)
def test_bad_usage_exits_2(arguments: list[str], message: str) -> None:
    code, _, err = dae("gc", *arguments)
    assert code == 2
    assert message in err


KINDS: tuple[What, ...] = ("images", "noise", "checkpoint", "draft")


@pytest.mark.parametrize("what", KINDS)
def test_a_needed_run_keeps_its_folders(what: What) -> None:
    needed = finished(1, needed_until=NOW + 1, digests=frozenset({"d"}))
    folder = Folder(what=what, path="images/a", used=0.0, digests=frozenset({"d"}))
    assert chosen(Inventory(runs=(needed,), folders=(folder,))) == set()
