from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dae import extensions
from dae.config import reference
from dae.config.loading import load, validate
from dae.config.schema import PipelineConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "text"),
    [("configs/default.yaml", reference.default_yaml()), ("docs/configuration.md", reference.reference_markdown())],
)
def test_the_generated_pages_are_equal_to_the_schema(path: str, text: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text, "run make reference"


def test_the_generated_configuration_is_the_default_one() -> None:
    assert validate(yaml.safe_load(reference.default_yaml())) == PipelineConfig()


def test_the_reference_has_every_key_with_its_meaning() -> None:
    rows = [line.split(" | ") for line in reference.reference_markdown().splitlines() if line.startswith("| `")]
    keys = {row[0].strip("| `") for row in rows}
    assert {key for key in PipelineConfig().flat() if not key.startswith("noise.kinds.")} <= keys
    assert {"noise.kinds[].variance", "noise.kinds[].amount", "noise.kinds[].peak"} <= keys
    assert not [row[0] for row in rows if row[-1].strip("| ") == "" and not row[0].endswith(".kind`")]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_other_configurations_hold_only_what_differs(path: Path) -> None:
    if path.name == "default.yaml":
        return
    tree, default = yaml.safe_load(path.read_text(encoding="utf-8")), PipelineConfig().model_dump(mode="json")
    same = [
        f"{section}.{key}" for section in tree for key in tree[section] if tree[section][key] == default[section][key]
    ]
    assert not same
    assert load(path) != PipelineConfig()


def test_an_entry_that_was_added_is_on_the_page() -> None:
    with extensions.LOSSES.added("huber", "keras.losses:huber"):
        page = reference.reference_markdown()
    assert "`huber`" in page
    assert "`huber`" not in reference.reference_markdown()
