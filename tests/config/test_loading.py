from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dae.config.loading import dump, load, validate
from dae.config.schema import ConfigError, PipelineConfig, warn_of_former_name
from dae.noise.kinds import Gaussian
from dae.noise.strength import StrengthRange

CONFIGS = Path(__file__).parents[2] / "configs"


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def keys(tree: Any, prefix: str = "") -> set[str]:
    if isinstance(tree, list):
        tree = {f"{kind['kind']}": kind for kind in tree}
    if not isinstance(tree, dict):
        return {prefix}
    return {path for key, value in tree.items() for path in keys(value, f"{prefix}.{key}")}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_committed_configuration_loads(path: Path) -> None:
    assert validate(load(path).model_dump(mode="json")) == load(path)


def test_the_default_configuration_is_the_committed_one() -> None:
    assert load(CONFIGS / "default.yaml") == PipelineConfig()


def test_the_default_configuration_spells_out_every_key() -> None:
    tree = yaml.safe_load((CONFIGS / "default.yaml").read_text(encoding="utf-8"))
    assert keys(tree) == keys(load(CONFIGS / "default.yaml").model_dump(mode="json"))


def test_the_article_configuration_is_the_articles_experiment() -> None:
    config = load(CONFIGS / "article.yaml")
    assert (config.data.validation, config.noise.training, config.model.architecture) == ("test", "frozen", "article")
    assert (config.train.epochs, config.train.batch_size) == (30, 64)
    assert (config.train.learning_rate, config.train.schedule) == (1e-3, "constant")
    assert config.noise.kinds == PipelineConfig().noise.kinds


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    config = load(written(tmp_path, "train:\n  epochs: 9\n"))
    assert config.train.epochs == 9
    assert config == load(settings=["train.epochs=9"])


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing yet\n")) == PipelineConfig()


def test_settings_come_on_top_of_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = written(tmp_path, "train: {epochs: 9, batch_size: 8}")
    config = load(path, ["train.epochs=2", "train.epochs=3"])
    assert (config.train.epochs, config.train.batch_size) == (3, 8)


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("data.validation=test", ("data", "validation"), "test"),
        ("data.validation=0.25", ("data", "validation"), 0.25),
        ("data.limit=null", ("data", "limit"), None),
        ("gate.beat_noisy_input=false", ("gate", "beat_noisy_input"), False),
        ("train.learning_rate=1e-3", ("train", "learning_rate"), 1e-3),
        ("tracking.run_name=a=b", ("tracking", "run_name"), "a=b"),
    ],
)
def test_a_setting_is_read_as_yaml(setting: str, path: tuple[str, str], value: object) -> None:
    section, field = path
    assert getattr(getattr(load(settings=[setting]), section), field) == value


def test_settings_reach_into_the_kinds_of_noise() -> None:
    config = load(settings=["noise.kinds.0.variance=0.2", "noise.kinds.2.peak=40", "noise.kinds.1.weight=3"])
    tree = config.model_dump()["noise"]["kinds"]
    assert (tree[0]["variance"], tree[2]["peak"], tree[1]["weight"]) == (0.2, 40, 3)
    only = load(settings=["noise.kinds=[{kind: speckle, variance: 0.5}]"])
    assert [kind.kind for kind in only.noise.kinds] == ["speckle"]


def test_settings_make_a_strength_a_range_and_change_one_end_of_it() -> None:
    config = load(settings=["noise.kinds.0.variance={low: 0.01, high: 0.2}", "noise.kinds.0.variance.high=1e-1"])
    assert config.noise.kinds[0] == Gaussian(variance=StrengthRange(low=0.01, high=0.1))


def test_the_blind_configuration_differs_from_the_default_in_its_strengths_network_epochs_and_gate_alone() -> None:
    blind, default = load(CONFIGS / "blind.yaml"), PipelineConfig()
    network = {name: getattr(default.model, name) for name in ("width", "deep_width", "deep_blocks")}
    length = {
        name: getattr(default.train, name) for name in ("epochs", "batch_size", "steps_per_epoch", "learning_rate")
    }
    same = {
        "noise": default.noise,
        "gate": default.gate,
        "model": blind.model.model_copy(update=network),
        "train": blind.train.model_copy(update=length),
    }
    assert blind.model_copy(update=same).digest == default.digest
    assert [kind.kind for kind in blind.noise.kinds] == [kind.kind for kind in default.noise.kinds]
    for kind in blind.noise.kinds:
        assert isinstance(getattr(kind, kind.strength), StrengthRange)


def test_what_is_dumped_loads_as_the_same_configuration(tmp_path: Path) -> None:
    config = load(
        settings=[
            "noise.kinds=[{kind: poisson, peak: 12.5}, {kind: speckle, variance: {low: 0.1, high: 2}}]",
            "data.validation=0.1",
            "data.source=scans",
            "data.patch=32",
        ]
    )
    assert load(written(tmp_path, dump(config))) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs=0", "train.epochs: input should be greater than or equal to 1; received 0"),
        (
            "data.patch=32",
            "data: patch is for photographs, documents and folders of images, received patch 32 for mnist$",
        ),
        ("data.validation=1.0", "data.validation: .*received 1.0"),
        ("data.validation=true", "data.validation: .*received True"),
        ("train.learning_rate=true", "train.learning_rate: must be a number; received True"),
        ("train.seed=true", "train.seed: must be a number; received True"),
        ("noise.kinds.²=1", "noise.kinds.²: must be a position"),
        ("noise.kinds.2.peak=1e-50", "noise.kinds.2.peak: .*greater than"),
        ("tracking.experiment=../x", "tracking.experiment: .*pattern"),
        ("tracking.model_name=dae-1.0", "tracking.model_name: .*pattern"),
        ("train.nope=1", "train.nope: unknown key"),
        ("nope=1", "nope: unknown key"),
        ("nope.epochs=1", "nope: unknown key"),
        ("train=3", "train: .*received 3"),
        ("train.epochs.more=1", "train.epochs: has no fields of its own"),
        ("noise.kinds.9.variance=1", "noise.kinds.9: must be a position from 0 to 3"),
        ("noise.kinds.gaussian.variance=1", "noise.kinds.gaussian: must be a position from 0 to 3"),
        ("noise.kinds.0.peak=1", "noise.kinds.0.peak: unknown key"),
        ("noise.kinds.0.variance=-1", "noise.kinds.0.variance: .*greater than or equal to 0.000001; received -1"),
        ("noise.kinds.2.peak=-1", "noise.kinds.2.peak: .*greater than or equal to.*'grey_levels'; received -1"),
        ("noise.kinds.0.variance={low: 2, high: 1}", "noise.kinds.0.variance: low must be below high, received low 2"),
        ("noise.kinds.0.variance={low: 1}", "noise.kinds.0.variance: high is missing; received {'low': 1}"),
        (
            "noise.kinds.0.variance={low: 0, high: 1}",
            "noise.kinds.0.variance.low: .*greater than or equal.*received 0$",
        ),
        ("noise.kinds.0.variance={low: 1, high: true}", "noise.kinds.0.variance.high: must be a number; received True"),
        ("noise.kinds.0.variance={low: 1, high: 2, mid: 3}", "noise.kinds.0.variance.mid: unknown key; received 3"),
        ("noise.kinds.0.variance=[1, 2]", r"noise.kinds.0.variance: must be a number, or a range.*received \[1, 2\]"),
        (
            "noise.kinds.1.amount={low: 0.1, high: 2}",
            "noise.kinds.1.amount.high: .*less than or equal to 1; received 2",
        ),
        ("noise.kinds.2.peak={low: 4, high: grey_levels}", "noise.kinds.2.peak.high: .*received 'grey_levels'"),
        ("noise.kinds.0.kind=rain", "noise.kinds.0: must be a noise kind: gaussian, .*received 'rain'"),
        ("noise.kinds.1={kind: gaussian}", "noise: kinds must differ"),
        ("data.validation=-3", "data.validation: .*received -3"),
        ("train.epochs", "--set train.epochs: must be PATH=VALUE"),
        ("=3", "--set =3: must be PATH=VALUE"),
        ("train.epochs=[", "train.epochs: the value '\\[' is not YAML"),
    ],
)
def test_a_refused_setting_is_named_by_its_path_with_what_was_received(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        load(settings=[setting])


def test_every_refused_field_has_a_line_of_its_own() -> None:
    with pytest.raises(ConfigError) as refusal:
        validate({"train": {"epochs": 0, "batch_size": 0}, "data": {"sauce": 1}, "extra": {}})
    paths = {line.partition(":")[0] for line in str(refusal.value).splitlines()}
    assert paths == {"train.epochs", "train.batch_size", "data.sauce", "extra"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"train: {epochs: [", "cannot be read as YAML"),
        (b"- 1\n- 2\n", "must be a mapping of sections, received list"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"!!python/object:os.system {}", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_mapping_of_sections_is_refused_by_its_path(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"broken.yaml: {message}"):
        load(path)


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        load(tmp_path / "absent.yaml")


def test_an_unknown_key_is_named_whatever_it_looks_like(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, "train: {batch-size: 3, 'learning rate': 2}"))
    assert str(refused.value).splitlines() == [
        "train.batch-size: unknown key; received 3",
        "train.learning rate: unknown key; received 2",
    ]


FORMER = [
    ("data", "also", "extra_source", "more"),
    ("gate", "beat_nothing", "beat_noisy_input", False),
    ("gate", "works", "smoke_test", None),
]


@pytest.mark.parametrize(("section", "former", "present", "value"), FORMER)
def test_a_former_name_is_read_with_one_warning_that_has_the_present_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, section: str, former: str, present: str, value: object
) -> None:
    path = tmp_path / "former.yaml"
    path.write_text(yaml.safe_dump({section: {former: value}}))
    expected = PipelineConfig.model_validate({section: {present: value}})
    setting = f"{section}.{former}={json.dumps(value)}"
    readers: list[Callable[[], PipelineConfig]] = [
        lambda: load(path),
        lambda: load(settings=[setting]),
        lambda: PipelineConfig.model_validate(yaml.safe_load(path.read_text())),
    ]
    for read in readers:
        warn_of_former_name.cache_clear()
        caplog.clear()
        assert read() == expected
        assert [record.getMessage() for record in caplog.records] == [
            f"configuration: {section}.{former} is now called {section}.{present}"
        ]
    path.write_text(yaml.safe_dump({section: {former: value, present: value}}))
    with pytest.raises(ConfigError, match=f"{section}.{former}: is the former name of {present}; leave it out"):
        load(path)
    path.write_text(yaml.safe_dump({section: {former: "x", "width": 3}}))
    with pytest.raises(ConfigError, match=rf"{section}\.width: unknown key"):
        load(path)
