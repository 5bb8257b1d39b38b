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
        rf"error: 1000000000\.0 GB of disk space are needed in {checkout}, and [\d.]+ GB are free; make room, .*\n",
        done.stderr,
    )
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "WARNING: Retrying: [Errno -3] Temporary failure in name resolution\nERROR: No matching distribution found for x",
            "cannot reach the package index: see to the network, or the proxy, then run the same command again (name",
        ),
        ("ERROR: HTTPSConnectionPool(host='x', port=443): Max retries exceeded", "cannot reach the package index"),
        (
            "ERROR: Could not install: [Errno 28] No space left on device",
            "no space is left on the disk of {venv}: make",
        ),
        (
            "OSError: [Errno 28] No space left on device: '/tmp/pip-1'",
            "no space is left on the disk of /tmp/pip-1: make",
        ),
        ("PermissionError: [Errno 13] Permission denied: '/a/b'", "/a/b must be a place that can be written to"),
        (
            "WARNING: Retrying: Read timed out\nERROR: THESE PACKAGES DO NOT MATCH THE HASHES",
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES (all that was said is in {venv}/set-up.log)",
        ),
    ],
)
def test_what_pip_failed_of_is_one_sentence(library: ModuleType, tmp_path: Path, said: str, told: str) -> None:
    reason = library.reason(said, tmp_path)
    assert told.format(venv=tmp_path) in reason
    assert "\n" not in reason


def test_what_pip_failed_of_is_told_where_no_log_can_be_written(library: ModuleType, tmp_path: Path) -> None:
    assert library.reason("so\nERROR: it cannot be", tmp_path / "nowhere") == "ERROR: it cannot be"


def test_what_pip_was_stopped_at_is_installed_again_and_the_rest_stays(checkout: Path, library: ModuleType) -> None:
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    for name in ("pip", "whole-1.dist-info", "cut-1.dist-info", "~oved"):
        (packages / name).mkdir()
    (packages / "pip" / "__init__.py").touch()
    (packages / "whole-1.dist-info" / "INSTALLER").write_text("pip")
    (venv / ".ready-requirements").touch()
    library.require_environment(venv)
    assert {each.name for each in packages.iterdir() if each.name != "__pycache__"} == {"pip", "whole-1.dist-info"}
    assert (venv / ".ready-requirements").exists()


@pytest.mark.slow
def test_an_environment_without_pip_gets_it(checkout: Path, library: ModuleType) -> None:
    venv = checkout / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (venv / "left").touch()
    library.require_environment(venv)
    assert (venv / "left").exists()
    assert subprocess.run([venv / "bin" / "python", "-m", "pip", "--version"], check=False).returncode == 0


@pytest.mark.slow
def test_another_tensorflow_goes_once_all_of_the_new_lock_can_be_had(
    checkout: Path, library: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, lock = checkout / ".venv", checkout / "requirements-gpu.lock"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    there = packages / "tensorflow_cpu-1.dist-info"
    there.mkdir()
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: 1\n")
    (there / "INSTALLER").write_text("pip")
    (there / "RECORD").write_text("".join(f"{there.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")))
    for name in (".ready-requirements", ".ready-requirements-dev"):
        (venv / name).touch()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    with pytest.raises(library.SetUpError, match="cannot reach the package index"):
        library.remove_other_tensorflow(venv, [lock])
    assert there.exists()
    assert (venv / ".ready-requirements").exists()
    lock.write_text("# nothing\n")
    library.remove_other_tensorflow(venv, [lock])
    assert not there.exists()
    assert [each.name for each in venv.glob(".ready-*")] == [".ready-requirements-dev"]


def test_whoever_stops_set_up_stops_pip(checkout: Path, library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    program = checkout / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho $$ >{checkout}/pid\necho Collecting a==1\nexec sleep 60\n")
    program.chmod(0o755)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(library.Progress, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        library.install(checkout / ".venv", [checkout / "requirements.lock"])
    with pytest.raises(ProcessLookupError):
        os.kill(int((checkout / "pid").read_text()), 0)


def test_a_second_set_up_waits_for_the_first(checkout: Path, library: ModuleType) -> None:
    script = "import make_venv, pathlib\nwith make_venv.alone(pathlib.Path('..')): print('at it')"
    with library.alone(checkout):
        second = subprocess.Popen(
            [sys.executable, "-uc", script], cwd=checkout / "deploy", stdout=subprocess.PIPE, text=True
        )
        assert second.stdout is not None
        assert second.stdout.readline() == f"Waiting for another set-up in {checkout}\n"
    assert second.communicate(timeout=30)[0] == "at it\n"


def test_supported_pythons_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    minors = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", text)]
    check = (ROOT / "deploy" / "check_python.py").read_text(encoding="utf-8")
    assert f"FIRST, LAST = (3, {min(minors)}), (3, {max(minors)})" in check
