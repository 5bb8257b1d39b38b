"""The inventory: runs, versions, ledgers and cached folders as small frozen records, whatever store they came from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dae.promotion.history import Entry
from dae.schemas import Frozen

What = Literal["run", "baseline", "images", "noise", "checkpoint", "draft"]
ACTIVE = ("RUNNING", "SCHEDULED")


class Version(Frozen):
    """A registered version: where it lies, who made it, and the digests of the images and the noise it was scored on."""

    name: str
    number: str
    source: str
    run_id: str | None
    aliases: tuple[str, ...] = ()
    verdict: str | None = None
    digests: frozenset[str] = frozenset()


class Run(Frozen):
    """A run of MLflow, whoever made it. Times are in seconds since the epoch.

    Attributes
    ----------
    ours : bool
        Whether this pipeline made it.
    models : tuple of str
        Ids of the models it logged.
    needed_until : float
        Until when a command asked to keep it; 0 if none did.
    """

    run_id: str
    name: str
    status: str
    started: float
    ended: float | None
    ours: bool
    ledger: bool = False
    baseline: bool = False
    model_name: str | None = None
    models: tuple[str, ...] = ()
    digests: frozenset[str] = frozenset()
    needed_until: float = 0.0


class Folder(Frozen):
    """A folder of the cache: when it was last used, what it holds, and for a checkpoint whose it is."""

    what: What
    path: str
    used: float
    digests: frozenset[str] = frozenset()
    run_id: str | None = None


class State(Frozen):
    """All there is, at one moment; the ledgers by the name of their registered model."""

    runs: tuple[Run, ...] = ()
    versions: tuple[Version, ...] = ()
    ledgers: dict[str, tuple[Entry, ...]] = Field({})
    folders: tuple[Folder, ...] = ()
