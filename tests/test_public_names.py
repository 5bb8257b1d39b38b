"""The public interface for programs."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import dae

ROOT = Path(__file__).parents[1]


def test_the_public_names() -> None:
    assert dae.__all__ == ["__version__", "denoise", "load"]
    public = {name for name, member in vars(dae).items() if inspect.isfunction(member) and not name.startswith("_")}
    assert public == {"denoise", "load"}
    for name in public:
        assert "Examples" in (inspect.getdoc(getattr(dae, name)) or "")


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (dae.DISTRIBUTION, dae.__version__) == (project["name"], project["version"])
    assert importlib.metadata.version(dae.DISTRIBUTION) == dae.__version__


def test_importing_the_package_imports_no_library() -> None:
    program = "import sys, dae; print(sorted({'numpy', 'keras', 'mlflow', 'prefect', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_says_what_it_holds() -> None:
    for path in sorted((ROOT / "dae").rglob("__init__.py")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith(('"""', 'r"""')), path
