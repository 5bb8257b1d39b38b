"""Imports point one way, from the command line down to the records. They are read from the files; nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dae", "flows", "tasks")
HEAVY = {"keras", "tensorflow", "mlflow", "prefect", "pandas", "matplotlib", "skimage"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
CLI = [name for name in MODULES if name.startswith("dae.cli")]
RANKS: tuple[tuple[str, ...], ...] = (
    ("dae.schemas", "dae.storage", "dae.random_streams", "dae.runtime", "dae.command_lines", "dae.extensions"),
    ("dae.noise",),
    ("dae.config",),
    ("dae.networks", "dae.tracking", "dae.services"),
    ("dae.data",),
    ("dae.evaluation", "dae.inference", "dae.serving"),
    ("dae.training", "dae.promotion"),
    ("dae.monitoring", "dae.maintenance"),
    ("tasks",),
    ("flows",),
    ("dae.cli",),
)
"""The packages, the lowest first. Each imports from lower ranks, and from itself; those of one rank do not know each other."""
BASE = RANKS[0]
"""Single modules, which may import one another but in a circle."""
MLFLOW = ("dae.tracking.", "dae.promotion.", "dae.maintenance.", "dae.serving.")


def package_of(module: str) -> str:
    """Return the package, or the single module, that has a rank; ``dae`` for the public names on top of them all."""
    parts = module.split(".")
    return parts[0] if parts[0] != "dae" or len(parts) == 1 else ".".join(parts[:2])


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


@pytest.mark.parametrize("module", [name for name in MODULES if name != "dae" and not name.startswith("dae.assets")])
def test_imports_point_to_lower_ranks(module: str) -> None:
    rank = {package: number for number, members in enumerate(RANKS) for package in members}
    own = package_of(module)
    packages = {package_of(name) for name in imported(module) & MODULES.keys() if name != "dae"} - {own}
    higher = {package for package in packages if rank[package] >= rank[own]}
    assert higher <= (set(BASE) if own in BASE else set())


def test_the_single_modules_do_not_import_one_another_in_a_circle() -> None:
    graph = {module: imported(module) & set(BASE) for module in BASE}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("dae.") and name not in CLI])
def test_the_library_does_not_import_prefect(module: str) -> None:
    assert "prefect" not in tops(imported(module))


def test_mlflow_is_imported_by_its_own_packages_alone() -> None:
    users = {name for name in MODULES if "mlflow" in tops(imported(name))}
    assert not [name for name in users - set(CLI) if not name.startswith(MLFLOW)]


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
