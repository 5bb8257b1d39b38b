"""Make the virtual environment from locked and hashed versions, and say what is being done; called by the Makefile."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input"]
LOCKED = [
    "install",
    "--no-deps",
    "--no-compile",
    "--require-hashes",
    "--progress-bar=off",
    "--retries=3",
    "--timeout=15",
]
STEP = re.compile(
    r"(?:Collecting|Processing|Requirement already satisfied:|Ignoring) (?:\S*/)?([\w.-]+?)(?:-\d|[\[=:\s])"
)
NO_NETWORK = (
    "name resolution|Name or service not known|nodename nor servname|Network is unreachable|No route to host|"
    "Connection refused|Connection reset|timed out|Tunnel connection failed|Cannot connect to proxy|"
    "CERTIFICATE_VERIFY_FAILED|SSLError|Max retries exceeded"
)
REASONS = {
    "No space left|Disk quota exceeded|Errno 28|disk is full": "no space is left on the disk of {path}: make room",
    "Read-only file system|Permission denied": "{path} must be a place that can be written to: see to that",
    NO_NETWORK: "pip cannot reach the package index: see to the network, or the proxy",
}
TENSORFLOW = ["tensorflow", "tensorflow-cpu"]
"""Two packages of the same files, one for each lock."""


class SetUpError(Exception):
    """Set-up cannot go on. The message is for a person."""


class Progress:
    """A bar on a terminal; elsewhere a line at each tenth."""

    def __init__(self, doing: str, total: int) -> None:
        self.doing, self.total, self.tenth = doing, total, 0

    def __call__(self, done: int, name: str) -> None:
        """Show that so many are done, the last of them of this name."""
        tenth = min(10 * done // self.total, 10)
        if sys.stdout.isatty():
            bar, end = "#" * (3 * tenth), "\n" if self.tenth < tenth == 10 else ""
            print(f"\r  {self.doing} [{bar:30}] {done}/{self.total} {name}\033[K", end=end, flush=True)
        elif tenth > self.tenth:
            print(f"  {self.doing} {done}/{self.total} {name}", flush=True)
        self.tenth = max(tenth, self.tenth)


def reason(output: str, venv: Path) -> str:
    """Return in a sentence why a command failed; where it is none of the usual reasons, its own error and where the rest is."""
    lines = [line for line in output.splitlines() if re.match(r"ERROR|error|\w*Error\b", line)]
    errors = "\n".join(lines)
    # Of an index that does not answer only warnings tell; pip's error is then that it has found nothing.
    told = output if not errors or "No matching distribution" in errors else errors
    for pattern, sentence in REASONS.items():
        if found := re.search(pattern, told):
            path = re.search(r"'(/[^']+)'", errors)
            why = sentence.format(path=path[1] if path else venv.resolve())
            return f"{why}, then run the same command again ({found[0]})"
    log = venv / "set-up.log"
    with suppress(OSError):
        log.write_text(output, encoding="utf-8")
        return f"{lines[-1] if lines else 'set-up failed'} (all that was said is in {log})"
    return lines[-1] if lines else output


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one set-up at a time work in a folder."""
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another set-up in {folder.resolve()}", flush=True)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def size(venv: Path) -> float:
    """Return how large an environment is, in GB."""
    return sum(each.lstat().st_size for each in venv.rglob("*")) / 1e9


def require_space(venv: Path, gb: float) -> None:
    """Refuse to start what the disk has no room for, beside what is there."""
    needed, free = gb - size(venv), shutil.disk_usage(venv.parent).free / 1e9
    if free < needed:
        rule = f"{needed:.1f} GB of disk space are needed in {venv.parent.resolve()}"
        raise SetUpError(f"{rule}, and {free:.1f} GB are free; make room, then run the same command again")


def run(venv: Path, program: str | Path, *arguments: str) -> None:
    """Run a Python program to its end; its error becomes this one's."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetUpError(reason(done.stdout + done.stderr, venv))


def require_environment(venv: Path) -> None:
    """Make the environment, unless it is there and of this Python; what pip was stopped at is removed from it."""
    python = venv / "bin" / "python"
    same = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if not python.exists() or subprocess.run([python, "-c", same], capture_output=True, check=False).returncode:
        print(f"Making {venv} with {sys.executable}", flush=True)
        run(venv, sys.executable, "-m", "venv", "--clear", str(venv))
    elif subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode:
        run(venv, python, "-m", "ensurepip")
    remove_cut_short(venv)


def remove_cut_short(venv: Path) -> None:
    """Let pip install again what it was stopped at. It takes a package for whole by its folder, and signs that last."""
    for folder in venv.glob("lib/python*/site-packages"):
        unsigned = [each for each in folder.glob("*.dist-info") if not (each / "INSTALLER").exists()]
        for part in [*unsigned, *folder.glob("~*")]:
            shutil.rmtree(part, ignore_errors=True)


def remove_other_tensorflow(venv: Path, locks: list[Path]) -> None:
    """Remove TensorFlow where the environment has that of another lock, once all of this one is known to be there."""
    others = {each.name for each in venv.glob(".ready-*")} - {stamp(venv, lock).name for lock in locks}
    for other in others - {".ready-requirements-dev"}:
        install(venv, locks, "--dry-run")
        run(venv, venv / "bin" / "python", *PIP, "uninstall", "--yes", *TENSORFLOW)
        (venv / other).unlink()


def stamp(venv: Path, lock: Path) -> Path:
    """Return the file that says that a lock is installed."""
    return venv / f".ready-{lock.stem}"


def install(venv: Path, locks: list[Path], *options: str) -> None:
    """Install what the locks have and the environment has not."""
    entries = sum(len(re.findall(r"^[a-z0-9].*==", lock.read_text(encoding="utf-8"), re.MULTILINE)) for lock in locks)
    names = " and ".join(map(str, locks))
    print(f"Installing {entries} packages of {names} for Python {sys.version.split()[0]}", flush=True)
    call = [*PIP, *LOCKED, *options, *(word for lock in locks for word in ("--requirement", str(lock)))]
    progress, done, said = Progress("fetching", entries), 0, []
    with subprocess.Popen(
        [venv / "bin" / "python", *call], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                said.append(line)
                if found := STEP.match(line):
                    done += 1
                    progress(done, found[1])
                elif line.startswith("Installing"):
                    print("  installing what was fetched", flush=True)
        except BaseException:
            pip.terminate()
            pip.wait()
            raise
    if pip.returncode:
        raise SetUpError(reason("".join(said), venv))


def compile_all(venv: Path) -> None:
    """Compile what is installed, on all cores; pip would do it on one."""
    print("  compiling", flush=True)
    call = [str(venv / "bin" / "python"), "-m", "compileall", "-qq", "-j", "0", "-x", "/tests/", str(venv / "lib")]
    subprocess.run(call, capture_output=True, check=False)  # files that are no Python of today, such as templates, fail


def set_up(venv: Path, locks: list[Path], gb: float) -> None:
    """Make the environment if it is not there, install what is missing and the project, and leave a stamp for each lock."""
    started = time.monotonic()
    require_space(venv, gb)
    require_environment(venv)
    remove_other_tensorflow(venv, locks)
    install(venv, locks)
    project = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--editable", "."]
    run(venv, venv / "bin" / "python", *PIP, *project)
    compile_all(venv)
    for lock in locks:
        stamp(venv, lock).touch()
    print(f"Ready in {time.monotonic() - started:.0f} s: {size(venv):.1f} GB in {venv}", flush=True)


def main() -> int:
    """Read the arguments; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    parser.add_argument("locks", type=Path, nargs="+")
    parser.add_argument("--gb", type=float, required=True, help="disk space that it takes while it is being made")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with alone(given.venv.parent):
            set_up(given.venv, given.locks, given.gb)
    except KeyboardInterrupt:
        print("\nerror: stopped; the same command goes on with what was fetched", file=sys.stderr)
        return 130
    except (SetUpError, OSError) as error:
        told = str(error) if isinstance(error, SetUpError) else reason(f"{type(error).__name__}: {error}", given.venv)
        print(("\n" if sys.stdout.isatty() else "") + f"error: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
