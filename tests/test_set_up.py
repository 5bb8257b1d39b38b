"""Set-up: what it says of a Python, a disk or a network that will not do, and which packages it takes for missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
LOCKS = ("requirements.lock", "requirements-gpu.lock", "requirements-dev.lock")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up reads, elsewhere."""
    folder = tmp_path / "checkout"
    (folder / "deploy").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", *LOCKS, "deploy/check_python.py", "deploy/make_venv.py"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def library() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / "deploy" / "make_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(folder: Path, before: str) -> Path:
    """Return a program that is this Python after some statements."""
    program = folder / "python-of-test"
    run = "import runpy; sys.argv = sys.argv[1:]; sys.path.insert(0, ''); runpy.run_path(sys.argv[0], run_name='__main__')"
    base = getattr(sys, "_base_executable", sys.executable)
    program.write_text(f"""#!/bin/sh\nexec {base} -c "import sys; {before}; {run}" "$@"\n""", encoding="utf-8")
    program.chmod(0o755)
    return program


def refused(checkout: Path, *variables: str, **environment: str) -> str:
    """Return the one line that `make train` ends with, beside make's own."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("GPU", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL")
    }
    done = subprocess.run(
        ["make", "train", "GPU=0", *variables],
        cwd=checkout,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert not (checkout / ".venv" / ".ready-requirements").exists()
    (line,) = [each for each in done.stderr.splitlines() if not each.startswith("make")]
    assert line.startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr
    return line


@pytest.mark.parametrize("version", ["2.7.18", "3.10.13", "3.14.0"])
def test_a_python_that_will_not_do_is_named_with_what_to_type(checkout: Path, version: str) -> None:
    found = python(checkout, f"sys.version_info = ({version.replace('.', ', ')}, 'final', 0)")
    line = refused(checkout, f"PYTHON={found}")
    assert f"Python 3.11 to 3.13 is needed, and {found} is Python {version}; " in line
    assert re.search(r": make PYTHON=python3\.1[123] train$", line)


@pytest.mark.parametrize("name", ["python2.7", "python3.6", "python3.8", "python3.10"])
def test_old_pythons_can_read_the_check(checkout: Path, name: str) -> None:
    version = name.removeprefix("python")
    built = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/{name}"))
    program = str(built[0]) if built else shutil.which(name)
    if program is None or subprocess.run([program, "-V"], capture_output=True, check=False).returncode:
        pytest.skip(f"{name} is not installed")
    assert f"{program} is Python {version}." in refused(checkout, f"PYTHON={program}")


def test_no_python_at_all(checkout: Path) -> None:
    assert "nosuchpython is not found; install Python 3.11 to 3.13" in refused(checkout, "PYTHON=nosuchpython")


def test_a_python_without_ensurepip_is_told_debians_package(checkout: Path) -> None:
    found = python(checkout, "sys.modules['ensurepip'] = None")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    line = refused(checkout, f"PYTHON={found}")
    assert "cannot make a virtual environment" in line
    assert f"apt install {version}; or " in line


def test_a_disk_without_room_is_told_before_anything_is_made(checkout: Path) -> None:
    script = [sys.executable, "deploy/make_venv.py", ".venv", "requirements.lock", "--gb", "1e9"]
    done = subprocess.run(script, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        rf"error: 1000000000\.0 GB of disk space are needed in {checkout}, and [\d.]+ GB are free\n", done.stderr
    )
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("WARNING: Retrying: [Errno -3] Temporary failure in name resolution", "cannot reach the package index (name"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "no space is left on the disk of "),
        ("PermissionError: [Errno 13] Permission denied: '.venv'", "cannot be written to (Permission denied)"),
        ("WARNING: so so\nERROR: hashes do not match", "ERROR: hashes do not match (all that was said is in "),
    ],
)
def test_what_pip_failed_of_is_one_sentence(library: ModuleType, tmp_path: Path, said: str, told: str) -> None:
    reason = library.reason(said, tmp_path / ".venv")
    assert told in reason
    assert "\n" not in reason


def test_an_environment_that_was_cut_short_is_made_anew(checkout: Path, library: ModuleType) -> None:
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    lock = checkout / "requirements.lock"
    for name, kept in ((".ready-requirements", True), (library.UNFINISHED, False)):
        (venv / name).touch()
        (venv / "left").touch()
        library.require_environment(venv, [lock], 0)
        assert (venv / "left").exists() == kept
    assert (venv / "bin" / "python").exists()


def test_cuda_takes_the_place_of_an_environment_without(checkout: Path, library: ModuleType) -> None:
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (venv / ".ready-requirements").touch()
    (venv / ".ready-requirements-dev").touch()
    library.require_environment(venv, [checkout / "requirements-gpu.lock"], 0)
    assert not list(venv.glob(".ready-*"))


def test_supported_pythons_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    minors = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", text)]
    check = (ROOT / "deploy" / "check_python.py").read_text(encoding="utf-8")
    assert f"FIRST, LAST = (3, {min(minors)}), (3, {max(minors)})" in check
