"""The generated pages of the configuration: ``configs/default.yaml`` and ``docs/configuration.md``, from the schema alone.

Run ``python -m dae.config.reference`` to write both anew; a test keeps them equal to the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from dae import extensions, storage
from dae.config.schema import PipelineConfig

COLUMN = 36
"""Where the comments of the YAML file begin."""
HEAD = """\
# The default configuration, generated from the schema by `make reference`. A configuration holds only what differs from it.
"""
INTRODUCTION = """\
# Configuration

This page is generated from the schema by `make reference`.

A run is configured by a YAML file, `dae train --config FILE`, and by settings on top of it, `--set train.epochs=3`. What they
leave out has its default. `dae config` prints the whole configuration of a run, `dae config --schema` its JSON schema.
"""
OWN = f"""\
## Your own network, noise kind or loss

`model.architecture`, `kind` of a noise and `train.loss` also take `package.module:name`. Set the environment variable
`{extensions.ALLOWED}` to the top-level packages, separated by commas, that a configuration may name, on each machine that reads
the configuration. Naming a module of such a package runs its code, so name only packages that you trust. The run records the
SHA-256 of the source file as a tag `source_sha256.package.module:name`; other source is another configuration.

* A network is a function `(shape, seed, **options)` that returns a `keras.Model`; `model.options` holds its options. Made of
  Keras's layers, its stored model opens in plain Keras.
* A noise kind is a subclass of `dae.noise.kinds.NoiseKind`. Its field is `kind: str`, since its kind is this reference.
* A loss is a function of clean and restored images that returns a value for each image or pixel.
"""


def default_yaml() -> str:
    """Return the default configuration as commented YAML, which `dae.config.loading.load` reads."""
    return HEAD + "".join(f"{line}\n" for line in _yaml_lines(PipelineConfig(), ""))


def _yaml_lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        comment = field.description or _first_line(type(value))
        if isinstance(value, BaseModel):
            yield _with_comment(f"{indent}{name}:", comment)
            yield from _yaml_lines(value, f"{indent}  ")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            yield _with_comment(f"{indent}{name}:", comment)
            for member in value:
                first, *rest = _yaml_lines(member, f"{indent}  ")
                yield f"{indent}- {first.strip()}"
                yield from rest
        else:
            plain = section.model_dump(mode="json")[name]
            text = yaml.safe_dump(plain, default_flow_style=True).removesuffix("\n...\n").strip()
            yield _with_comment(f"{indent}{name}: {text}", comment if name != "kind" else _first_line(type(section)))


def _with_comment(text: str, comment: str) -> str:
    return f"{text:{COLUMN}}# {comment}" if comment else text


def _first_line(cls: type) -> str:
    """Return the first sentence of a class of the configuration, without markup; empty for other classes."""
    if not issubclass(cls, BaseModel):
        return ""
    sentence = (cls.__doc__ or "").split(", :math:", maxsplit=1)[0].split(". ", maxsplit=1)[0]
    return sentence.split("\n", maxsplit=1)[0].replace("``", "").rstrip(".,")


def reference_markdown() -> str:
    """Return the reference page: every key with its type, its default and its meaning."""
    parts = [INTRODUCTION]
    for name, field in PipelineConfig.model_fields.items():
        parts.append("\n".join(_section(field.default, name)))
    kinds = [f"* `{name}`: {_first_line(kind)}" for name, kind in extensions.NOISE_KINDS.items()]
    parts.append("\n".join(["## Kinds of noise", "", *kinds, ""]))
    for name, kind in extensions.NOISE_KINDS.items():
        parts.append("\n".join([f"### {name}", "", *_rows(kind(), "noise.kinds[]")]))
    lists = {
        "Networks": extensions.NETWORKS,
        "Losses": extensions.LOSSES,
        "Metrics": extensions.METRICS,
        "Classical baselines": extensions.BASELINES,
        "Further checks of the gate": extensions.GATE_CHECKS,
    }
    parts += [f"## {title}\n\n{', '.join(f'`{name}`' for name in table)}\n" for title, table in lists.items()]
    return "\n".join([*parts, OWN])


def _section(section: BaseModel, name: str) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield _first_line(type(section)) + "."
    yield ""
    yield from _rows(section, name)


def _rows(section: BaseModel, path: str) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    yield from _key_rows(section, path)
    yield ""


def _key_rows(section: BaseModel, path: str) -> Iterator[str]:
    schema = type(section).model_json_schema()
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            meaning = field.description or _first_line(type(value))
            yield f"| `{path}.{name}` | section | | {meaning} |"
            yield from _key_rows(value, f"{path}.{name}")
            continue
        kind = _type(schema["properties"][name], schema.get("$defs", {}))
        default = "the four below" if name == "kinds" else f"`{json.dumps(section.model_dump(mode='json')[name])}`"
        yield f"| `{path}.{name}` | {kind} | {default} | {field.description or ''} |"


def _type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type and the range of a value in words."""
    if "$ref" in schema:
        return "range" if "Range" in schema["$ref"] else str(schema["$ref"]).rpartition("/")[2]
    if members := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(member, definitions) for member in members))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("pattern") == f"^{extensions.REFERENCE.pattern}$":
        return "`package.module:name`"
    kind = {"object": "mapping", "array": "list", "string": "text", "boolean": "true or false", "null": "null"}
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return " ".join(
        [kind.get(schema.get("type", ""), schema.get("type", "value")), *[", ".join(limits)] * bool(limits)]
    )


def main() -> None:
    """Write both pages into the checkout."""
    root = storage.PACKAGE_ROOT
    storage.write_text(root / "configs" / "default.yaml", default_yaml())
    storage.write_text(root / "docs" / "configuration.md", reference_markdown())


if __name__ == "__main__":
    main()
