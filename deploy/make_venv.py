"""Make the virtual environment from locked and hashed versions, and say what is being done; called by the Makefile."""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps"]
LOCKED = ["--no-compile", "--require-hashes", "--progress-bar=off", "--retries=1", "--timeout=15"]
STEP = re.compile(
    r"(?:Collecting|Processing|Requirement already satisfied:|Ignoring) (?:\S*/)?([\w.-]+?)(?:-\d|[\[=:\s])"
)
NO_NETWORK = (
    "name resolution|Name or service not known|nodename nor servname|Network is unreachable|No route to host|"
    "Connection refused|Connection reset|timed out|Cannot connect to proxy|CERTIFICATE_VERIFY_FAILED"
)
REASONS = {
    "No space left|Disk quota exceeded|Errno 28|disk is full": "no space is left on the disk of {venv}; make room",
    "Read-only file system|Permission denied": "{venv} cannot be written to",
    NO_NETWORK: "pip cannot reach the package index",
}
UNFINISHED = ".unfinished"
"""A file in the environment while packages are installed: pip takes a package that it was stopped at for whole."""


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
    for pattern, sentence in REASONS.items():
        if found := re.search(pattern, output):
            return f"{sentence.format(venv=venv.resolve())} ({found[0]}); then the same command goes on"
    lines = [line for line in output.splitlines() if re.match(r"ERROR|error|\w*Error\b", line)]
    log = Path(tempfile.gettempdir()) / "dae-set-up.log"
    log.write_text(output, encoding="utf-8")
    return f"{lines[-1] if lines else 'set-up failed'} (all that was said is in {log})"


def require_space(folder: Path, gb: float) -> None:
    """Refuse to start what the disk has no room for."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < gb:
        raise SetUpError(f"{gb:.1f} GB of disk space are needed in {folder.resolve()}, and {free:.1f} GB are free")


def require_environment(venv: Path, locks: list[Path], gb: float) -> None:
    """Make the environment, unless it is there, whole, of this Python and of the same locks."""
    python = venv / "bin" / "python"
    same = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    others = {each.name for each in venv.glob(".ready-*")} - {stamp(venv, lock).name for lock in locks}
    others.discard(".ready-requirements-dev")
    works = python.exists() and not subprocess.run([python, "-c", same], capture_output=True, check=False).returncode
    if works and not others and not (venv / UNFINISHED).exists():
        return
    require_space(venv.parent, gb)
    print(f"Making {venv} with {sys.executable}", flush=True)
    call = [sys.executable, "-m", "venv", "--clear", str(venv)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetUpError(reason(done.stdout + done.stderr, venv))


def stamp(venv: Path, lock: Path) -> Path:
    """Return the file that says that a lock is installed."""
    return venv / f".ready-{lock.stem}"


def install(venv: Path, locks: list[Path]) -> None:
    """Install what the locks have and the environment has not."""
    entries = sum(len(re.findall(r"^[a-z0-9].*==", lock.read_text(encoding="utf-8"), re.MULTILINE)) for lock in locks)
    names = " and ".join(map(str, locks))
    print(f"Installing {entries} packages of {names} for Python {sys.version.split()[0]}", flush=True)
    call = [*PIP, *LOCKED, *(word for lock in locks for word in ("--requirement", str(lock)))]
    progress, done, said = Progress("fetching", entries), 0, []
    with subprocess.Popen(
        [venv / "bin" / "python", *call], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            said.append(line)
            if found := STEP.match(line):
                done += 1
                progress(done, found[1])
            elif line.startswith("Installing"):
                print("  installing what was fetched", flush=True)
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
    require_environment(venv, locks, gb)
    (venv / UNFINISHED).touch()
    install(venv, locks)
    project = [str(venv / "bin" / "python"), *PIP, "--no-build-isolation", "--no-index", "--editable", "."]
    done = subprocess.run(project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetUpError(reason(done.stdout + done.stderr, venv))
    compile_all(venv)
    (venv / UNFINISHED).unlink()
    for lock in locks:
        stamp(venv, lock).touch()
    size = sum(each.lstat().st_size for each in venv.rglob("*")) / 1e9
    print(f"Ready in {time.monotonic() - started:.0f} s: {size:.1f} GB in {venv}", flush=True)


def main() -> int:
    """Read the arguments; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    parser.add_argument("locks", type=Path, nargs="+")
    parser.add_argument("--gb", type=float, required=True, help="disk space that it takes while it is being made")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        set_up(given.venv, given.locks, given.gb)
    except KeyboardInterrupt:
        print("\nerror: stopped; the same command begins anew, with what was fetched", file=sys.stderr)
        return 130
    except (SetUpError, OSError) as error:
        told = str(error) if isinstance(error, SetUpError) else reason(f"{type(error).__name__}: {error}", given.venv)
        print(("\n" if sys.stdout.isatty() else "") + f"error: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
