"""Tables of extension points: noise kinds, networks, losses, metrics, classical baselines and checks of the gate.

A table maps a short name to a reference ``package.module:name``, which is imported when it is used. To add one, write it in a
module and add its line here. From then on it is in the configuration's schema, in the tables and figures, in MLflow and in the
documentation. Image formats have a table of their own, `dae.data.formats`.

A user's own network, noise kind or loss needs no line: the configuration names it as ``package.module:name``. Configurations
also arrive over the network, as parameters of a flow, so only packages that the machine allows are imported this way.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ALLOWED = "DAE_ALLOWED_PACKAGES"
"""Environment variable: top-level packages, separated by commas, of which a configuration may name objects."""
REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class ExtensionError(ValueError):
    """There is no such entry, or a user's own one may not be imported or is not there."""


class Table:
    """Named entries of one type.

    Parameters
    ----------
    title : str
        What an entry is called in messages, such as ``"network"``.
    entries : dict of str to str
        The built-in entries: a name, and the reference of the object.
    open_to_users : bool
        Whether a user's own ``package.module:name`` is an entry as well.
    """

    def __init__(self, title: str, entries: dict[str, str], *, open_to_users: bool = False) -> None:
        self.title, self.open_to_users = title, open_to_users
        self._entries: dict[str, Any] = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def require(self, name: str) -> str:
        """Return the name of an entry, after a check that there is one.

        Raises
        ------
        ExtensionError
            If there is none, or it is a user's own and may not or cannot be imported.
        """
        if name in self._entries:
            return name
        own = ", or your own as package.module:name" if self.open_to_users else ""
        if not self.open_to_users or not REFERENCE.fullmatch(name):
            raise ExtensionError(f"must be a {self.title}: {', '.join(self)}{own}; received {name!r}")
        import_users_own(name)  # a wrong reference is refused at once, with the path of the field
        return name

    def load(self, name: str) -> Any:
        """Return the object of an entry, importing it if that was not done yet.

        Raises
        ------
        ExtensionError
            As `require` does, or if it cannot be imported.
        """
        if name not in self._entries:
            return import_users_own(self.require(name))
        entry = self._entries[name]
        return import_object(entry) if isinstance(entry, str) else entry

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield each name with its object."""
        for name in self:
            yield name, self.load(name)

    @contextmanager
    def added(self, name: str, entry: object) -> Iterator[None]:
        """Add an entry for the length of a block.

        Parameters
        ----------
        name : str
        entry : object
            The object itself, or its reference.

        Raises
        ------
        ExtensionError
            If there is an entry of this name.
        """
        if name in self._entries:
            raise ExtensionError(f"{name} is a {self.title} already; choose another name")
        self._entries[name] = entry
        try:
            yield
        finally:
            del self._entries[name]


def import_object(reference: str) -> Any:
    """Import what ``package.module:name`` refers to.

    Raises
    ------
    ExtensionError
        If there is no such module, or nothing of this name in it.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module may raise anything
        raise ExtensionError(f"{reference} cannot be imported: {type(error).__name__}: {error}") from error


def import_users_own(reference: str) -> Any:
    """Import a user's own object: a function or class that is defined in a package that this machine allows.

    Raises
    ------
    ExtensionError
        If the package is not allowed, or the object cannot be imported, is neither, or comes from another package.
    """
    package = _top_package(reference.partition(":")[0])
    if package not in [name.strip() for name in os.environ.get(ALLOWED, "").split(",")]:
        raise ExtensionError(
            f"{reference} may not be imported: {ALLOWED} must name the package {package}; set it on each machine that "
            "reads this configuration"
        )
    entry = import_object(reference)
    if not callable(entry) or _top_package(getattr(entry, "__module__", "")) != package:
        raise ExtensionError(
            f"{reference} must be a function or class that is defined in {package}, received {entry!r}"
        )
    return entry


def _top_package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def source_sha256(reference: str) -> str:
    """Return the SHA-256 of the source file that a user's object is defined in, ``unknown`` where there is none.

    Raises
    ------
    ExtensionError
        As `import_users_own` does.
    """
    try:
        path = inspect.getsourcefile(import_users_own(reference))
    except TypeError:
        path = None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else "unknown"


NOISE_KINDS = Table(
    "noise kind",
    {
        "gaussian": "dae.noise.kinds:Gaussian",
        "salt_and_pepper": "dae.noise.kinds:SaltAndPepper",
        "poisson": "dae.noise.kinds:Poisson",
        "speckle": "dae.noise.kinds:Speckle",
    },
    open_to_users=True,
)
NETWORKS = Table(
    "network",
    {"unet": "dae.networks.unet:build_unet", "article": "dae.networks.autoencoder:build_autoencoder"},
    open_to_users=True,
)
LOSSES = Table(
    "loss",
    {
        "mse": "dae.training.losses:mse",
        "mae": "dae.training.losses:mae",
        "charbonnier": "dae.training.losses:charbonnier",
    },
    open_to_users=True,
)
METRICS = Table(
    "metric",
    {
        "mse": "dae.evaluation.metrics:mse",
        "psnr": "dae.evaluation.metrics:psnr",
        "ssim": "dae.evaluation.metrics:ssim",
    },
)
BASELINES = Table(
    "classical baseline",
    {
        "noisy_input": "dae.evaluation.classical:NoisyInput",
        "median": "dae.evaluation.classical:Median",
        "tv": "dae.evaluation.classical:TotalVariation",
        "nlm": "dae.evaluation.classical:NonLocalMeans",
        "wavelet": "dae.evaluation.classical:Wavelet",
        "bm3d": "dae.evaluation.classical:BM3D",
    },
)
GATE_CHECKS = Table(
    "check of the gate",
    {"min_val_psnr": "dae.promotion.gate:min_val_psnr", "min_val_ssim": "dae.promotion.gate:min_val_ssim"},
)
"""Checks beyond those with fields of their own in the configuration; ``gate.checks`` gives each its limit."""
