"""Make the virtual environment from locked and hashed versions, and say meanwhile what is being done; called by the Makefile.

Wheels are fetched by several pips at once and kept until all is installed, so that a set-up that was cut short is taken up
where it stopped. Then one pip installs them, while what is there already is compiled.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
FETCH = ["wheel", "--no-deps", "--require-hashes", "--progress-bar=off", "--retries=1", "--timeout=15"]
PIPS_AT_ONCE, WHEELS_EACH = 4, 24
SITE, CORES, GB = Path(sysconfig.get_path("purelib")), os.cpu_count() or 1, 1e9
LARGE = re.compile("tensorflow|nvidia|jaxlib|playwright")  # fetched first, each by itself
TENSORFLOWS = {"tensorflow", "tensorflow-cpu"}  # they have the same files: never one over the other
FULL = re.compile("No space left|Disk quota exceeded|Errno 28")
NO_NETWORK = re.compile(
    r"name resolution|Name or service not known|nodename nor servname|Network is unreachable|No route to host|"
    r"Connection refused|Connection reset|timed out|Cannot connect to proxy|CERTIFICATE_VERIFY_FAILED"
)
UNWRITABLE = re.compile("Read-only file system|Permission denied")


class SetUpError(Exception):
    """Set-up cannot go on. The message is for a person."""


class Progress:
    """A bar on a terminal; elsewhere a line at each tenth."""

    def __init__(self, doing: str, total: int) -> None:
        self.doing, self.total, self.tenth = doing, total, 0

    def __call__(self, done: int, name: str = "") -> None:
        """Show that so many are done, the last of them of this name."""
        tenth = 10 * done // self.total
        if sys.stdout.isatty():
            bar, end = "#" * (30 * done // self.total), "\n" if self.tenth < tenth == 10 else ""
            print(f"\r  {self.doing} [{bar:30}] {done}/{self.total} {name}\033[K", end=end, flush=True)
        elif tenth > self.tenth:
            print(f"  {self.doing} {done}/{self.total}", flush=True)
        self.tenth = max(tenth, self.tenth)


class Pips:
    """Calls of pip; what they print goes into files, and is shown only of one that fails, as one line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = tempfile.TemporaryDirectory()  # on another disk than one that may be filling up
        (folder / "tmp").mkdir(parents=True, exist_ok=True)  # /tmp may be too small for TensorFlow

    def run(self, calls: Iterable[Sequence[str]], tick: Callable[[], object] = bool, *, offline: bool = False) -> None:
        """Run the calls, several at once, and the tick every fifth of a second."""
        kept = {name: value for name, value in os.environ.items() if not (offline and name.startswith("PIP_"))}
        kept |= {"TMPDIR": str(self.folder / "tmp")} | ({"PIP_CONFIG_FILE": os.devnull} if offline else {})
        waiting, running = list(enumerate(calls)), list[tuple[subprocess.Popen[bytes], Path]]()
        try:
            while waiting or running:
                while waiting and len(running) < PIPS_AT_ONCE:
                    number, call = waiting.pop(0)
                    said = Path(self.said.name) / f"{number}.out"
                    with said.open("wb") as out:
                        process = subprocess.Popen([*PIP, *call], stdout=out, stderr=out, env=kept)
                    running.append((process, said))
                time.sleep(0.2)
                tick()
                for process, said in [each for each in running if each[0].poll() is not None]:
                    running.remove((process, said))
                    if process.returncode:
                        raise SetUpError(reason(said.read_text(errors="replace"), self.folder.parent))
        finally:
            for process, _ in running:
                process.kill()
                process.wait()


def reason(output: str, venv: Path) -> str:
    """Return in a sentence what a command failed of; what has no sentence of its own is kept, whole."""
    if FULL.search(output) or shutil.disk_usage(venv.parent).free < 1e6:
        return f"no space is left on the disk of {venv.resolve()}; make room, and the same command goes on from here"
    if found := UNWRITABLE.search(output):
        return f"{venv.resolve()} cannot be written to ({found[0]})"
    if found := NO_NETWORK.search(output):
        return f"pip cannot reach the package index ({found[0]}); once it can, the same command goes on from here"
    lines = [line for line in output.splitlines() if line.startswith("ERROR") or re.match(r"\w*Error\b", line)]
    log = Path(tempfile.gettempdir()) / "dae-set-up.log"
    log.write_text(output, encoding="utf-8")
    return f"{lines[-1] if lines else 'set-up failed'} (all that was said is in {log})"


class Compiler:
    """Compiles what was installed to its last file, tests aside; on one core while pip works, then on all."""

    def __init__(self) -> None:
        self.seen: set[Path] = set()
        self.files: list[str] = []
        self.running: list[subprocess.Popen[str]] = []
        self.last = ""

    def tick(self, processes: int = 1) -> None:
        """Start to compile what is new, unless something is being compiled."""
        new = [each for each in SITE.glob("*.dist-info") if each not in self.seen and is_whole(each)]
        self.seen.update(new)
        self.last = new[-1].name.partition("-")[0] if new else self.last
        self.files += [file for each in new for file in sources(each)]
        if self.files and all(each.poll() is not None for each in self.running):
            self.running = [compiling(self.files[part::processes]) for part in range(processes)]
            self.files = []

    def finish(self) -> None:
        """Compile what is left, and wait for it."""
        for _ in range(2):
            for each in self.running:
                each.wait()
            self.tick(CORES)
        for each in self.running:
            each.wait()


def compiling(files: Sequence[str]) -> subprocess.Popen[str]:
    """Start a process that compiles files. One that is no Python of today, such as a template, is left as it is."""
    command, nowhere = [sys.executable, "-m", "compileall", "-qq", "-i", "-"], subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, text=True)
    assert process.stdin is not None
    process.stdin.write("\n".join(files))
    process.stdin.close()
    return process


def is_whole(dist_info: Path) -> bool:
    """Tell whether pip was done with a package: the last it does is to list its own file INSTALLER in RECORD."""
    record = dist_info / "RECORD"
    return record.exists() and f"{dist_info.name}/INSTALLER" in record.read_text(encoding="utf-8")


def sources(dist_info: Path) -> list[str]:
    """Return the Python files of a package, without its tests."""
    listed = re.findall(
        r"^\"?([^\".,][^\",]*\.py)\"?,", (dist_info / "RECORD").read_text(encoding="utf-8"), re.MULTILINE
    )
    return [str(SITE / each) for each in listed if "/tests/" not in each]


def version(text: str) -> str:
    """Return a version in its one normal form."""
    from pip._vendor.packaging.version import Version

    return str(Version(text))


def wanted(lock: Path) -> dict[str, tuple[str, str]]:
    """Return version and text of each entry of a lock that is for this machine, by name."""
    from pip._vendor.packaging.markers import Marker

    found = {}
    for entry in re.split(r"^(?=[a-z0-9])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        ((name, pinned, marker),) = re.findall(r"\A([\w.-]+)(?:\[.*?\])?==(\S+)(?: ; (.*?))? *\\?\n", entry)
        if not marker or Marker(marker).evaluate():
            found[name] = (version(pinned), entry)
    return found


def installed() -> dict[str, str]:
    """Return the version of each package that is there, by name. One that pip was stopped at is forgotten, to be done again."""
    for each in SITE.glob("*.dist-info"):
        if not is_whole(each):
            shutil.rmtree(each)
    found = importlib.metadata.distributions(path=[str(SITE)])
    return {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): version(each.version) for each in found}


def require_space(folder: Path, gb: float) -> None:
    """Refuse to start what the disk has no room for."""
    free = shutil.disk_usage(folder).free / GB
    if free < gb:
        raise SetUpError(f"{gb:.1f} GB of disk space are needed in {folder.resolve()}, and {free:.1f} GB are free")


def make(venv: Path) -> None:
    """Make an environment with nothing but pip, in place of one whose Python is gone or another, and go on in it."""
    python, same = venv / "bin" / "python", f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    kept = python.exists() and not subprocess.run([python, "-c", same], capture_output=True, check=False).returncode
    call = [sys.executable, "-m", "venv", *([] if kept else ["--clear"]), str(venv)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetUpError(reason(done.stderr + done.stdout, venv))
    os.execv(python, [str(python), *sys.argv])


def install(venv: Path, lock: Path, gb: float) -> None:
    """Install what a lock has and the environment has not, and compile it."""
    want, have = wanted(lock), installed()
    missing = {name: entry for name, (pinned, entry) in want.items() if have.get(name) != pinned}
    print(f"Setting up {venv} with Python {sys.version.split()[0]}: {len(missing)} packages of {lock}", flush=True)
    pips, compiler = Pips(venv / ".wheels"), Compiler()
    if missing:
        require_space(venv, gb * (1 if TENSORFLOWS & missing.keys() else len(missing) / len(want)))
        fetch(pips, missing)
        if (there := TENSORFLOWS & have.keys()) and TENSORFLOWS & missing.keys():
            pips.run([["uninstall", "--yes", *there]])
        unpack(pips, compiler, [f"{name}=={want[name][0]}" for name in missing])
    print("  compiling", flush=True)
    compiler.finish()


def fetch(pips: Pips, missing: dict[str, str]) -> None:
    """Fetch wheels, or build them, after their hashes were checked; those of an earlier try that are whole are kept."""
    large = [name for name in missing if LARGE.match(name)]
    small = [name for name in missing if name not in large]
    many = -(-len(small) // WHEELS_EACH)
    parts = [[name] for name in large] + [small[start::many] for start in range(many)]
    calls = []
    for number, part in enumerate(parts):
        listed = pips.folder / f"part-{number}.txt"
        listed.write_text("".join(missing[name] for name in part), encoding="utf-8")
        calls.append([*FETCH, "--wheel-dir", str(pips.folder), "--requirement", str(listed)])
    progress = Progress("fetching", len(missing))

    def tick() -> None:
        said = "".join(each.read_text(errors="replace") for each in Path(pips.said.name).iterdir())
        begun = re.findall(r"^(?:Collecting|Processing) ([^=\s]+)", said, re.MULTILINE)
        progress(min(len(begun), len(missing)), Path(begun[-1]).name.partition("-")[0] if begun else "")

    pips.run(calls, tick)


def unpack(pips: Pips, compiler: Compiler, pins: Sequence[str]) -> None:
    """Install from the wheels that were fetched, and from nothing else."""
    listed = pips.folder / "all.txt"
    listed.write_text("\n".join(pins), encoding="utf-8")
    source = ["--no-index", "--find-links", str(pips.folder)]
    call = ["install", "--no-deps", "--no-compile", *source, "--requirement", str(listed)]
    compiler.tick()
    before, progress = len(compiler.seen), Progress("installing", len(pins))

    def tick() -> None:
        compiler.tick()
        progress(min(len(compiler.seen) - before, len(pins)), compiler.last)

    pips.run([call], tick, offline=True)


def size(folder: Path) -> int:
    """Return how many bytes a folder holds."""
    return sum(each.lstat().st_size for each in folder.rglob("*"))


def set_up(venv: Path, lock: Path, gb: float, project: bool) -> None:
    """Make the environment if it is not there, install what is missing, and leave a stamp."""
    started = float(os.environ.setdefault("SET_UP_STARTED", str(time.time())))
    if Path(sys.prefix).resolve() != venv.resolve():
        require_space(venv if venv.exists() else venv.parent, gb)
        print(f"Making {venv} with {sys.executable}", flush=True)
        make(venv)
    for stamp in venv.glob(f".ready-{lock.stem.removesuffix('-gpu')}*") if project else ():
        stamp.unlink()
    install(venv, lock, gb)
    if project:
        call = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--editable", "."]
        Pips(venv / ".wheels").run([call], offline=True)
    shutil.rmtree(venv / ".wheels")
    (venv / f".ready-{lock.stem}").touch()
    print(f"Ready in {time.time() - started:.0f} s: {size(venv) / GB:.1f} GB in {venv}", flush=True)


def main() -> int:
    """Read the arguments; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--gb", type=float, required=True, help="disk space that it takes while it is being made")
    parser.add_argument("--project", action="store_true", help="install the project as well, editable")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        set_up(given.venv, given.lock, given.gb, given.project)
    except KeyboardInterrupt:
        print("\nerror: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (SetUpError, OSError) as error:
        told = str(error) if isinstance(error, SetUpError) else reason(f"{type(error).__name__}: {error}", given.venv)
        print(("\n" if sys.stdout.isatty() else "") + f"error: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
