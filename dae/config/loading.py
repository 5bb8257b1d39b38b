"""Reading a `PipelineConfig` from YAML and from ``path=value`` settings, with errors that name the field."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dae.config.schema import (
    SECTIONS,
    ConfigError,
    PipelineConfig,
    add_former_defaults,
    warn_of_former_name,
    with_present_names,
)


def load(path: Path | None = None, settings: Iterable[str] = ()) -> PipelineConfig:
    """Return the configuration of a file, or the default one, with settings applied on top.

    Parameters
    ----------
    path : Path, optional
        A YAML file; what it leaves out has its default.
    settings : iterable of str
        Such as ``train.epochs=3`` or ``noise.kinds.0.variance=0.2``; the values are YAML.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown, or a value breaks a rule; one line a field.

    Examples
    --------
    >>> load(settings=["train.epochs=7"]).train.epochs
    7
    """
    return with_settings(validate(_read(path) if path else {}), settings)


def with_settings(config: PipelineConfig, settings: Iterable[str]) -> PipelineConfig:
    """Return a configuration with settings applied on top, as `load` takes them.

    Raises
    ------
    ConfigError
        If a key is unknown, or a value breaks a rule.
    """
    return validate(merge_settings(config.model_dump(mode="json"), settings))


def merge_settings(tree: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return a tree of plain values with settings applied on top, as `load` takes them.

    Raises
    ------
    ConfigError
        If a key is unknown, or a value is not YAML.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(tree))
    for setting in settings:
        _apply(changed, setting)
    return changed


def load_recorded(path: Path) -> PipelineConfig:
    """Return the configuration a run recorded; what its version had no field for is as that version did it.

    Raises
    ------
    ConfigError
        As `load` does.
    """
    return validate(add_former_defaults(_read(path)))


def validate(tree: Any) -> PipelineConfig:
    """Return a tree of plain values as a configuration.

    Raises
    ------
    ConfigError
        Naming each field that was refused, why, and what was received.
    """
    try:
        tree = _with_present_names(tree)
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, tree))) from None


def _with_present_names(tree: Any) -> Any:
    """Return a tree with fields under their present names, so that error messages use these."""
    if not isinstance(tree, dict):
        return tree
    sections = {name: section for name, section in SECTIONS.items() if isinstance(tree.get(name), dict)}
    try:
        return tree | {name: with_present_names(tree[name], section) for name, section in sections.items()}
    except ValueError as error:
        raise ConfigError(str(error)) from None


def dump(config: PipelineConfig) -> str:
    """Return a configuration as YAML that `load` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read(path: Path) -> Any:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path}: must be a mapping of sections, received {type(tree).__name__}")
    return tree or {}


def _apply(tree: Any, setting: str) -> None:
    dotted, equals, text = setting.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {setting}: must be PATH=VALUE, such as train.epochs=3")
    if dotted == "noise.clip":
        raise ConfigError("noise.clip: is now noise.file_share: set it to 1 for true, to 0 for false")
    *parents, last = dotted.split(".")
    for depth, name in enumerate(parents):
        tree = _step(tree, name, ".".join(parents[: depth + 1]))
    key = _key(tree, last, dotted)
    try:
        tree[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{dotted}: the value {text!r} is not YAML: {error}") from error


def _step(tree: Any, name: str, path: str) -> Any:
    below = tree[_key(tree, name, path)]
    if not isinstance(below, dict | list):
        raise ConfigError(f"{path}: has no fields of its own")
    return below


def _key(tree: Any, name: str, path: str) -> str | int:
    if isinstance(tree, list):
        if not name.isdecimal() or int(name) >= len(tree):
            raise ConfigError(f"{path}: must be a position from 0 to {len(tree) - 1}")
        return int(name)
    if name not in tree and (present := _present_name(path)) in tree:
        warn_of_former_name(path, f"{path.rpartition('.')[0]}.{present}")
        return present
    if name not in tree:
        raise ConfigError(f"{path}: unknown key; known here: {', '.join(tree)}")
    return name


def _present_name(path: str) -> str:
    """Return the name of a field that was renamed, empty for any other."""
    section, _, field = path.partition(".")
    return SECTIONS[section].former_names.get(field, "") if section in SECTIONS else ""


def _lines(error: ValidationError, tree: Any) -> Sequence[str]:
    """Return a line for each field at fault; a union has a problem for each of its members, merged into one line."""
    merged: dict[str, list[str]] = {}
    received: dict[str, Any] = {}
    for problem in error.errors(include_url=False):
        path = _path(problem["loc"], tree)
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("extra_forbidden", "missing"):
            text = "unknown key" if problem["type"] == "extra_forbidden" else f"{problem['loc'][-1]} is missing"
        merged.setdefault(path, []).append(text[0].lower() + text[1:])
        received[path] = problem["input"]
    faulty = [path for path in merged if not any(other.startswith(f"{path}.") for other in merged)]
    messages = {path: ", or ".join(merged[path]) for path in faulty}
    return [
        f"{path}: {t}" if "received" in t else f"{path}: {t}; received {received[path]!r}"
        for path, t in messages.items()
    ]


def _path(location: tuple[int | str, ...], tree: Any) -> str:
    """Return the path of a field in the tree, without the names pydantic gives to the members of a union."""
    names = []
    for name in location:
        if (isinstance(tree, dict) and name in tree) or (isinstance(tree, list | tuple) and isinstance(name, int)):
            names.append(str(name))
            tree = tree[name]  # type: ignore[index]
    return ".".join(names) or "configuration"
