"""Imports point one way: cli -> flows -> tasks -> dae. Read from the files; nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dae", "flows", "tasks")
HEAVY = {"keras", "tensorflow", "mlflow", "prefect", "pandas", "matplotlib", "skimage"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
LIBRARY = [name for name in MODULES if name.split(".")[0] == "dae" and not name.startswith("dae.cli")]
CLI = [name for name in MODULES if name.startswith("dae.cli")]


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from statements(statement.orelse)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            yield statement
            for block in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, block, []))


def imported(module: str, *, at_import: bool = False) -> set[str]:
    """Return the names a module imports, anywhere in it or only when it is imported itself."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in statements(tree.body) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def reached(module: str, seen: set[str] | None = None) -> set[str]:
    """Return all that importing a module imports, through the project's own modules."""
    seen = {module} if seen is None else seen
    names = imported(module, at_import=True)
    for name in names & MODULES.keys() - seen:
        seen.add(name)
        names |= reached(name, seen)
    return names


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_imports_neither_flows_nor_tasks_nor_the_command_line(module: str) -> None:
    names = imported(module)
    assert not tops(names) & {"flows", "tasks", "prefect"}
    assert not any(name.startswith("dae.cli") for name in names)


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "tasks"])
def test_tasks_import_the_library_alone(module: str) -> None:
    names = imported(module)
    assert "flows" not in tops(names)
    assert not any(name.startswith("dae.cli") for name in names)


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] == "flows"])
def test_flows_do_not_import_the_command_line(module: str) -> None:
    assert not any(name.startswith("dae.cli") for name in imported(module))


def test_mlflow_is_imported_by_its_own_modules_alone() -> None:
    users = {name for name in MODULES if "mlflow" in tops(imported(name))}
    allowed = ("dae.tracking.", "dae.promotion.", "dae.maintenance.", "dae.serving.")
    assert not [name for name in users - set(CLI) if not name.startswith(allowed)]


@pytest.mark.parametrize(
    "module",
    [
        "noise.kinds",
        "evaluation.metrics",
        "promotion.gate",
        "random_streams",
        "config.schema",
        "config.loading",
        "schemas",
    ],
)
def test_the_light_modules_reach_no_heavy_library(module: str) -> None:
    assert not tops(reached(f"dae.{module}")) & HEAVY


@pytest.mark.parametrize("module", CLI)
def test_importing_the_command_line_imports_no_heavy_library_and_no_flow(module: str) -> None:
    assert not tops(reached(module)) & {*HEAVY, "flows", "tasks", "numpy"}


@pytest.mark.parametrize("module", ["dae.networks.build", "dae.networks.unet"])
def test_networks_are_written_in_keras_alone(module: str) -> None:
    assert not tops(imported(module)) & {"tensorflow", "jax", "torch"}


def test_importing_the_package_itself_imports_nothing() -> None:
    assert tops(reached("dae")) <= {"__future__", "typing"}


def test_no_module_is_a_place_for_anything() -> None:
    assert not {name.split(".")[-1] for name in MODULES} & {"utils", "helpers", "common"}
