"""Command lines to print as hints. They work in the shell from which this process was started."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from dae import DISTRIBUTION, storage

MAKE_TARGETS = {"services": "services up", "services-down": "services down"}
"""For each make target the command of ``dae`` that does the same, for installations without a Makefile."""


def dae_command(arguments: str = "") -> str:
    """Return the command line that calls this installation's ``dae`` with arguments that are already quoted.

    The command is ``dae`` if the shell finds this installation by that name. Otherwise it is the path, relative if the relative
    path is shorter and works in the shell.
    """
    return f"{program_command('dae')} {arguments}".rstrip()


def program_command(name: str) -> str:
    """Return the command for a program in the same folder as ``dae``, such as ``prefect``."""
    folders = [Path(sys.argv[0]).parent, Path(sysconfig.get_path("scripts")), Path(sys.executable).parent]
    own = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if own is None:
        return name
    path = shutil.which(name)
    if path is not None and Path(path).resolve() == own.resolve():
        return name
    return shlex.quote(display_path(own))


def with_login(command: str) -> str:
    """Return a command line that works outside ``make`` too. If ``make`` has logged in to the servers, it logs in first."""
    login = os.environ.get("DAE_CLIENT")
    return f"(set -a; . {shlex.quote(display_path(Path(login)))}; {command})" if login else command


def make_command(target: str) -> str:
    """Return the command line for a target of the Makefile, or without a Makefile the ``dae`` command that does the same."""
    checkout = _checkout()
    if checkout is None:
        return dae_command(MAKE_TARGETS[target])
    here = _shell_is_here() and Path.cwd() == checkout
    return f"make {target}" if here else f"make -C {shlex.quote(str(checkout))} {target}"


def install_command(extra: str) -> str:
    """Return the command line that installs the packages of an extra for the current Python."""
    checkout = _checkout()
    if checkout is not None and Path(sys.prefix) == checkout / ".venv":
        return make_command("setup" if extra in ("onnx", "services") else "setup-dev")
    requirement = (
        f"--editable {shlex.quote(f'{checkout}[{extra}]')}" if checkout else shlex.quote(f"{DISTRIBUTION}[{extra}]")
    )
    return f"{shlex.quote(display_path(Path(sys.executable)))} -m pip install {requirement}"


def display_path(path: Path) -> str:
    """Return a path as it is typed: relative if the shell is in the same folder as this process and that is shorter."""
    whole = os.path.abspath(path)  # noqa: PTH100  (links in .venv/bin must not be resolved)
    if not _shell_is_here():
        return whole
    relative = os.path.relpath(whole)
    relative = relative if "/" in relative else f"./{relative}"
    return min(relative, whole, key=len)


def _shell_is_here() -> bool:
    """Return whether the shell has this working directory. ``make -C`` changes it for its own commands only."""
    flags = os.environ.get("MAKEFLAGS", "").split(" ")[0]
    if "w" in flags and not flags.startswith("-") and "=" not in flags:
        return False
    folder = os.environ.get("PWD")
    return folder is None or not Path(folder).is_dir() or Path(folder).samefile(Path.cwd())


def _checkout() -> Path | None:
    """Return the checkout the package runs from, None for an installed wheel."""
    root = storage.PACKAGE_ROOT
    return root if (root / "Makefile").is_file() and (root / "pyproject.toml").is_file() else None
