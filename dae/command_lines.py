"""What a person can type, as it works in the shell this process was started from: every hint in output is made here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from dae import storage

INSTEAD = {"services": "services up", "services-down": "services down"}
"""What does the work of a make target where there is no Makefile."""


def dae_command(arguments: str = "") -> str:
    """Return the command line that calls this installation's ``dae`` with arguments, which are quoted as they must be.

    It is ``dae`` if the shell finds this one by that name, else its path: relative where that works and is shorter.
    """
    return f"{program_command('dae')} {arguments}".rstrip()


def program_command(name: str) -> str:
    """Return how to call a program that lies beside ``dae``, such as ``prefect``."""
    folders = [Path(sys.argv[0]).parent, Path(sysconfig.get_path("scripts")), Path(sys.executable).parent]
    own = next((each / name for each in folders if (each / name).is_file()), None)
    if own is None:
        return name
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == own.resolve():
        return name
    return shlex.quote(display_path(own))


def with_login(command: str) -> str:
    """Return a command line that reaches the servers in use: ``make`` logs in for itself alone, and then it logs in too."""
    login = os.environ.get("DAE_CLIENT")
    return f"(set -a; . {shlex.quote(display_path(Path(login)))}; {command})" if login else command


def make_command(target: str) -> str:
    """Return the command line for a target of the Makefile, or from an installed wheel the command that does the same."""
    checkout = _checkout()
    if checkout is None:
        return dae_command(INSTEAD[target])
    here = _shell_is_here() and Path.cwd() == checkout
    return f"make {target}" if here else f"make -C {shlex.quote(str(checkout))} {target}"


def install_command(extra: str) -> str:
    """Return the command line that installs what an extra of the package needs, for the Python that runs."""
    checkout = _checkout()
    if checkout is not None and Path(sys.prefix) == checkout / ".venv":
        return make_command("setup" if extra in ("onnx", "services") else "setup-dev")
    wanted = f"--editable {shlex.quote(f'{checkout}[{extra}]')}" if checkout else shlex.quote(f"dae[{extra}]")
    return f"{shlex.quote(display_path(Path(sys.executable)))} -m pip install {wanted}"


def display_path(path: Path) -> str:
    """Return a path as it is typed: relative if the shell is where this process is, and it is shorter so."""
    whole = os.path.abspath(path)  # noqa: PTH100  (a link in .venv/bin is to stay one)
    if not _shell_is_here():
        return whole
    relative = os.path.relpath(whole)
    relative = relative if "/" in relative else f"./{relative}"
    return min(relative, whole, key=len)


def _shell_is_here() -> bool:
    """Tell whether the shell has this working directory; ``make -C`` changes it for make's commands alone."""
    flags = os.environ.get("MAKEFLAGS", "").split(" ")[0]
    if "w" in flags and not flags.startswith("-") and "=" not in flags:
        return False
    told = os.environ.get("PWD")
    return told is None or not Path(told).is_dir() or Path(told).samefile(Path.cwd())


def _checkout() -> Path | None:
    """Return the checkout the package runs from, None for an installed wheel."""
    root = storage.PACKAGE_ROOT
    return root if (root / "Makefile").is_file() and (root / "pyproject.toml").is_file() else None
