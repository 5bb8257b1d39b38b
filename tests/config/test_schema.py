from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dae.config.schema import DataConfig, NoiseConfig, PipelineConfig, add_former_defaults
from dae.noise.kinds import Gaussian, Poisson, SaltAndPepper, Speckle


def changed(**sections: Any) -> PipelineConfig:
    return PipelineConfig.model_validate(sections)


def test_by_default_the_four_kinds_have_equal_weight_and_the_articles_strengths() -> None:
    assert NoiseConfig().kinds == (
        Gaussian(weight=1, variance=0.1),
        SaltAndPepper(weight=1, amount=0.1, salt_share=0.9),
        Poisson(weight=1, peak="grey_levels"),
        Speckle(weight=1, variance=1),
    )


def test_by_default_5000_mnist_images_validate_and_the_gate_asks_the_articles_headline_of_every_kind() -> None:
    config = PipelineConfig()
    assert (config.data.source, config.data.validation) == ("mnist", 5000)
    assert (config.gate.max_val_mse, config.gate.beat_noisy_input) == (0.0069, True)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PipelineConfig().train.epochs = 4  # type: ignore[misc]


@pytest.mark.parametrize("section", list(PipelineConfig.model_fields))
def test_every_section_refuses_unknown_keys(section: str) -> None:
    with pytest.raises(ValidationError, match=rf"{section}\.nonsense"):
        changed(**{section: {"nonsense": 1}})


def test_the_schema_describes_every_section_and_closes_it() -> None:
    schema = PipelineConfig.model_json_schema()
    assert set(schema["properties"]) == set(PipelineConfig.model_fields)
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


@pytest.mark.parametrize(
    ("section", "field", "values"),
    [
        ("data", "source", [""]),
        ("data", "validation", [0, -1, 1.5, "train", math.nan, None]),
        ("data", "test", [0, -1, 1.5, "test"]),
        ("data", "extra_source", [""]),
        ("data", "limit", [0, -1]),
        ("data", "test_limit", [0]),
        ("data", "patch", [0, 7]),
        ("data", "seed", [-1, 2**32]),
        ("noise", "kinds", [[]]),
        ("noise", "training", ["never"]),
        ("model", "architecture", ["resnet"]),
        ("model", "width", [3, 513]),
        ("model", "blocks", [0, 33]),
        ("train", "epochs", [0, 1.5]),
        ("train", "batch_size", [0]),
        ("train", "learning_rate", [0, -1, math.nan, math.inf]),
        ("train", "schedule", ["linear"]),
        ("train", "patience", [0]),
        ("gate", "max_val_mse", [0, -1, math.nan, math.inf]),
        ("tracking", "experiment", [""]),
        ("tracking", "model_name", ["", "a/b", "a:b"]),
    ],
)
def test_a_value_outside_its_range_is_refused(section: str, field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ValidationError, match=rf"{section}\.{field}"):
            changed(**{section: {field: value}})


def test_two_kinds_of_the_same_name_are_refused_for_their_scores_could_not_be_told_apart() -> None:
    with pytest.raises(ValidationError, match="kinds must differ from one another, received gaussian, gaussian"):
        NoiseConfig(kinds=(Gaussian(), Gaussian(variance=0.2)))


def test_two_ranges_of_the_same_kind_are_refused_like_two_numbers() -> None:
    kinds = [{"kind": "gaussian", "variance": {"low": 0.01, "high": 0.1}}, {"kind": "gaussian", "variance": 0.2}]
    with pytest.raises(ValidationError, match="kinds must differ from one another, received gaussian, gaussian"):
        NoiseConfig.model_validate({"kinds": kinds})


def test_the_schema_offers_a_number_or_a_range_as_strength() -> None:
    definitions = PipelineConfig.model_json_schema()["$defs"]
    for kind, field, name in [
        ("Gaussian", "variance", "StrengthRange"),
        ("SaltAndPepper", "amount", "AmountRange"),
        ("Poisson", "peak", "StrengthRange"),
        ("Speckle", "variance", "StrengthRange"),
    ]:
        assert {"$ref": f"#/$defs/{name}"} in definitions[kind]["properties"][field]["anyOf"]
        assert definitions[name]["required"] == ["low", "high"]


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=3))
def test_shares_are_the_weights_and_add_up_to_one(weights: list[float]) -> None:
    one, two, three = weights
    config = NoiseConfig(kinds=(Gaussian(weight=one), Poisson(weight=two), Speckle(weight=three)))
    shares = list(config.model_copy(update={"file_share": 0.0}).shares().values())
    assert sum(shares) == pytest.approx(1)
    assert [share / shares[0] for share in shares] == pytest.approx([weight / one for weight in weights])


def test_the_digest_covers_all_that_bears_on_the_result() -> None:
    variants = [
        PipelineConfig(),
        changed(data={"limit": 10}),
        changed(data={"extra_source": "more"}),
        changed(noise={"seed": 1}),
        changed(noise={"kinds": [{"kind": "gaussian"}]}),
        changed(noise={"kinds": [{"kind": "gaussian", "variance": {"low": 0.05, "high": 0.1}}]}),
        changed(noise={"kinds": [{"kind": "gaussian", "variance": {"low": 0.05, "high": 0.2}}]}),
        changed(model={"width": 32}),
        changed(train={"seed": 1}),
        changed(gate={"beat_noisy_input": False}),
    ]
    assert len({config.digest for config in variants}) == len(variants)


def test_the_digest_leaves_names_in_mlflow_out() -> None:
    renamed = changed(tracking={"experiment": "other", "run_name": "a run", "model_name": "m"})
    assert renamed.digest == PipelineConfig().digest


def test_a_number_stays_a_number_so_that_digests_of_configurations_without_a_range_stay_as_they_were() -> None:
    assert NoiseConfig().model_dump(mode="json")["kinds"] == [
        {"kind": "gaussian", "weight": 1.0, "variance": 0.1},
        {"kind": "salt_and_pepper", "weight": 1.0, "amount": 0.1, "salt_share": 0.9},
        {"kind": "poisson", "weight": 1.0, "peak": "grey_levels"},
        {"kind": "speckle", "weight": 1.0, "variance": 1.0},
    ]


@pytest.mark.parametrize("peak", [30, {"low": 3, "high": 30}], ids=["number", "range"])
def test_the_digest_survives_a_round_trip_through_json(peak: object) -> None:
    config = changed(data={"validation": 0.2}, noise={"kinds": [{"kind": "poisson", "peak": peak}]})
    assert PipelineConfig.model_validate_json(config.model_dump_json()) == config
    assert PipelineConfig.model_validate_json(config.model_dump_json()).digest == config.digest


def test_a_runs_name_says_what_it_is_unless_one_is_given() -> None:
    config = changed(data={"source": "scans/cells.npz"}, train={"epochs": 7, "seed": 5})
    for word in ("cells", "unet", "7", "5"):
        assert word in config.run_name
    assert "article" in changed(model={"architecture": "article"}).run_name
    assert changed(tracking={"run_name": "monday"}).run_name == "monday"


def test_the_flat_form_has_every_value_under_its_path_and_a_kind_under_its_name() -> None:
    flat = changed(noise={"kinds": [{"kind": "speckle", "variance": 0.5}]}).flat()
    assert flat["train.epochs"] == PipelineConfig().train.epochs
    assert flat["data.test"] is None
    assert (flat["noise.kinds.speckle.variance"], flat["noise.kinds.speckle.weight"]) == (0.5, 1)
    assert all(isinstance(value, str | int | float | bool | None) for value in flat.values())
    ranged = changed(noise={"kinds": [{"kind": "speckle", "variance": {"low": 0.5, "high": 1}}]}).flat()
    assert (ranged["noise.kinds.speckle.variance.low"], ranged["noise.kinds.speckle.variance.high"]) == (0.5, 1)
    assert "noise.kinds.speckle.variance" not in ranged
    assert {f"data.{name}" for name in DataConfig.model_fields} <= set(flat)


@pytest.mark.parametrize(("clip", "share"), [(True, 1), (False, 0)])
def test_the_clip_of_older_configurations_is_read_as_a_share_of_files(clip: bool, share: float) -> None:
    tree = {"noise": {"clip": clip}, "gate": {"max_val_mse_per_kind": {"gaussian": 0.01}}}
    config = PipelineConfig.model_validate(tree)
    assert config.noise.file_share == share
    assert "clip" not in config.model_dump()["noise"]


def test_what_a_run_of_before_did_not_record_is_as_it_was() -> None:
    before = add_former_defaults({"noise": {"clip": False}, "train": {"epochs": 3}})
    config = PipelineConfig.model_validate(before)
    assert (config.train.optimizer, config.train.clean_share, config.train.page_share) == ("adam", 0, 0)
    now = {"noise": {"file_share": 0.0}, "train": {"epochs": 3}}
    assert add_former_defaults(now) == now
