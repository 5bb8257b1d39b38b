"""Quality at fixed strengths: of functions whose error is known, and end to end of models of a real MLflow store."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from dae.cli import app
from dae.config.schema import ConfigError, DataConfig, ModelConfig, NoiseConfig, PipelineConfig
from dae.data import datasets
from dae.evaluation import figures, robustness
from dae.evaluation.robustness import (
    classify_strength,
    compare_robustness,
    require_same_images,
    sweep_strengths,
)
from dae.extensions import NOISE_KINDS
from dae.networks import build
from dae.noise.kinds import Gaussian, NoiseKind, Poisson, SaltAndPepper, Speckle
from dae.noise.strength import StrengthRange
from dae.schemas import Images, ImageSet
from dae.tracking import log_model, models
from dae.tracking.client import connect
from dae.tracking.models import ModelError
from dae.tracking.runs import open_run

STRENGTHS = {name: kind.sweep for name, kind in NOISE_KINDS.items()}

RANGED = {"kinds": [{"kind": "gaussian", "variance": {"low": 0.01, "high": 0.2}}, {"kind": "poisson", "peak": 32}]}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "texture.npy"
    np.save(path, np.random.default_rng(0).integers(40, 216, (160, 12, 12), dtype=np.uint8))
    return path


@pytest.fixture
def images(source: Path) -> ImageSet:
    return datasets.ingest(data_config(source)).test


@dataclass(frozen=True)
class Logged:
    """URIs of two untrained models, logged as runs of their configurations would."""

    blind: str
    fixed: str


def log(config: PipelineConfig) -> str:
    with open_run(config, "none") as run_id:
        model = build.build_network(ModelConfig(width=4, deep_width=4), (12, 12, 1))
        return log_model.log_model(run_id, model, np.zeros((1, 12, 12, 1), np.float32), "dae")[1]


@pytest.fixture(scope="module")
def store_of_two(source: Path, migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Logged]:
    home = tmp_path_factory.mktemp("models")
    (home / "mlruns").mkdir()
    shutil.copy(migrated, home / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        blind = PipelineConfig(data=data_config(source), noise=NoiseConfig.model_validate(RANGED))
        fixed = blind.model_copy(update={"noise": NoiseConfig(kinds=(Gaussian(),))})
        return home, Logged(log(blind), log(fixed))


@pytest.fixture
def logged(store_of_two: tuple[Path, Logged], monkeypatch: pytest.MonkeyPatch) -> Logged:
    """The two models, with the store they are in as the one in use."""
    monkeypatch.setenv("DAE_HOME", str(store_of_two[0]))
    connect()
    return store_of_two[1]


def data_config(source: Path, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"source": str(source), "validation": 40, "test": 60, **changes})


def swept(
    images: ImageSet, noise: NoiseConfig, count: int = 60, **denoisers: Callable[[Images], Images]
) -> pd.DataFrame:
    return sweep_strengths(denoisers, images, noise, "test", count)


def identity(noisy: Images) -> Images:
    return noisy


def curve(table: pd.DataFrame, kind: str, name: str) -> list[float]:
    return table[(table["kind"] == kind) & (table["restored_by"] == name)]["mse"].tolist()


@pytest.mark.parametrize("kind", [Gaussian(), SaltAndPepper(), Poisson(), Speckle()], ids=lambda kind: kind.kind)
def test_the_strengths_are_listed_from_weak_noise_to_strong(images: ImageSet, kind: NoiseKind) -> None:
    found = curve(swept(images, NoiseConfig.model_validate({"kinds": [kind]}), raw=identity), kind.kind, "raw")
    assert len(found) == len(STRENGTHS[kind.kind])
    assert np.all(np.diff(found) >= 0)  # the lowest amounts are one pixel of so small an image
    assert len(set(found)) >= len(found) - 1


def test_the_error_of_handing_images_through_is_the_strengths_whatever_the_configured_one(images: ImageSet) -> None:
    x = datasets.read_images(images)
    for kinds in ((Gaussian(), Poisson()), (Gaussian(variance=StrengthRange(low=0.1, high=0.2)), Poisson(peak=3))):
        table = swept(images, NoiseConfig(kinds=kinds, file_share=0), raw=identity)
        np.testing.assert_allclose(curve(table, "gaussian", "raw"), STRENGTHS["gaussian"], rtol=0.05)
        np.testing.assert_allclose(
            curve(table, "poisson", "raw"), [x.mean() / peak for peak in STRENGTHS["poisson"]], rtol=0.05
        )


def test_everyone_restores_the_same_pixels_and_nothing_is_the_clipped_image(images: ImageSet) -> None:
    seen: dict[str, list[Images]] = {"one": [], "two": []}

    def clipping(name: str) -> Callable[[Images], Images]:
        def denoise(noisy: Images) -> Images:
            seen[name].append(noisy.copy())
            return np.clip(noisy, 0, 1)

        return denoise

    table = swept(images, NoiseConfig(file_share=0), one=clipping("one"), two=clipping("two"))
    for first, second in zip(*seen.values(), strict=True):
        np.testing.assert_array_equal(first, second)
    for kind in STRENGTHS:
        assert curve(table, kind, "one") == curve(table, kind, "noisy input")
    gaussian = np.array(seen["one"][: len(STRENGTHS["gaussian"])]) - datasets.read_images(images)
    for noise, variance in zip(gaussian, STRENGTHS["gaussian"], strict=True):  # one draw, scaled
        np.testing.assert_allclose(noise / np.sqrt(variance), gaussian[0] / np.sqrt(0.0025), atol=1e-4)


def test_a_sweep_is_reproducible_and_depends_on_seed_split_clipping_and_count(images: ImageSet) -> None:
    config = NoiseConfig(kinds=(Gaussian(),))
    tables = [
        sweep_strengths({"raw": identity}, images, noise, split, count)["mse"].to_numpy()
        for noise, split, count in [
            (config, "test", 60),
            (config, "test", 1000),  # more than there are
            (config.model_copy(update={"seed": 1}), "test", 60),
            (config, "validation", 60),
            (config.model_copy(update={"file_share": 1.0}), "test", 60),
            (config, "test", 20),
        ]
    ]
    np.testing.assert_array_equal(tables[0], tables[1])
    for other in tables[2:]:
        assert not np.array_equal(tables[0], other)


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("gaussian", 0.01, 0.2, ["weaker"] * 2 + ["inside"] * 5 + ["stronger"] * 2),
        ("poisson", 4, 256, ["weaker"] * 2 + ["inside"] * 7 + ["stronger"] * 2),
    ],
)
def test_a_strength_lies_inside_of_a_range_or_is_weaker_or_stronger_noise(
    kind: str, low: float, high: float, expected: list[str]
) -> None:
    order = STRENGTHS[kind]
    assert [classify_strength(StrengthRange(low=low, high=high), order, strength) for strength in order] == expected
    assert {classify_strength(setting, order, order[0]) for setting in (0.1, "grey_levels")} == {""}


@pytest.mark.parametrize("name", ["blind.yaml"])
def test_the_blind_configuration_is_measured_on_both_sides_of_each_range(name: str) -> None:
    from dae.config import loading

    config = loading.load(Path(__file__).parents[2] / "configs" / name)
    for kind, trained in robustness.configured_strengths(config.noise).items():
        found = [classify_strength(trained, STRENGTHS[kind], strength) for strength in STRENGTHS[kind]]
        assert min(found.count("weaker"), found.count("stronger")) >= 2
        assert found.count("inside") >= 5


def test_models_are_compared_on_the_first_ones_terms_and_the_result_is_logged_to_its_run(
    logged: Logged,
) -> None:
    blind, other = logged.blind, logged.fixed
    table, figure = compare_robustness([blind, other], "test", 30)
    names = ["noisy input", *(uri.removeprefix("models:/") for uri in (blind, other))]
    assert set(table["kind"]) == {"gaussian", "poisson"}
    assert table["restored_by"].unique().tolist() == names
    assert np.isfinite(table[["mse", "psnr"]].to_numpy()).all()
    gaussian = table[table["kind"] == "gaussian"].drop_duplicates("strength")
    assert gaussian["trained"].tolist() == ["weaker"] * 2 + ["inside"] * 5 + ["stronger"] * 2
    assert set(table[table["kind"] == "poisson"]["trained"]) == {""}
    assert [axis.get_xlim()[0] < axis.get_xlim()[1] for axis in figure.axes] == [True, False]  # weak noise on the left

    client = connect()
    run_id = models.locate_model(blind).run_id
    stored = pd.read_csv(io.StringIO(Path(client.download_artifacts(run_id, "strengths.csv")).read_text()))
    pd.testing.assert_frame_equal(stored.fillna({"trained": ""}), table)
    with Image.open(client.download_artifacts(run_id, "figures/strengths.png")) as picture:
        assert picture.format == "PNG"
    assert not [
        found.path
        for found in client.list_artifacts(models.locate_model(other).run_id)
        if found.path == "strengths.csv"
    ]


def test_models_with_other_held_out_images_are_not_compared(source: Path) -> None:
    config = PipelineConfig(data=data_config(source))
    drawn_anew, fewer = (
        config.model_copy(update={"data": data_config(source, **change)})
        for change in ({"seed": 1}, {"validation": 30})
    )
    other_noise = config.model_copy(update={"noise": NoiseConfig(kinds=(Poisson(),))})
    assert require_same_images({"a": config, "b": other_noise}, "test").count == 60
    with pytest.raises(ConfigError, match="models must have the same test images; b has others than a"):
        require_same_images({"a": config, "b": drawn_anew}, "test")
    with pytest.raises(ConfigError, match="same validation images; c has others than a"):
        require_same_images({"a": config, "b": other_noise, "c": fewer}, "validation")


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize("uri", ["models:/dae@champion", "models:/m-0123456789abcdef0123456789abcdef", "no/such/path"])
def test_a_model_that_does_not_exist_is_refused_by_its_uri(uri: str) -> None:
    with pytest.raises(ModelError, match=f"no model {uri} at sqlite:///"):
        compare_robustness([uri], "test", 30)


def test_a_figure_has_a_panel_for_each_kind_whatever_their_number(images: ImageSet) -> None:
    kinds = (Gaussian(), Poisson(), Speckle())
    table = swept(images, NoiseConfig(kinds=kinds, file_share=0), raw=identity)
    trained = {"raw": {"gaussian": StrengthRange(low=0.01, high=0.2), "poisson": "grey_levels", "speckle": 0.5}}
    drawn: Figure = figures.plot_robustness(table, trained)
    assert [axis.get_title() for axis in drawn.axes] == ["gaussian", "poisson", "speckle"]
    assert [len(axis.patches) for axis in drawn.axes] == [1, 0, 0]
    assert [len(axis.lines) for axis in drawn.axes] == [2, 2, 3]  # two curves, and where it was trained


def test_the_command_prints_the_table_and_writes_it_and_the_picture(logged: Logged, tmp_path: Path) -> None:
    table, picture = tmp_path / "strengths.md", tmp_path / "strengths.png"
    files = ["--markdown", str(table), "--picture", str(picture)]
    result = CliRunner().invoke(app, ["strengths", "--model", logged.blind, "--images", "20", *files])
    assert result.exit_code == 0, result.stderr
    assert "variance 0.0025" in result.stdout
    assert f"Logged to the run of {logged.blind}" in result.stdout
    with Image.open(picture) as written:
        assert written.format == "PNG"
    lines = table.read_text().splitlines()
    assert (
        lines[0]
        == f"| noise | strength | trained on | MSE, noisy input | MSE, {logged.blind.removeprefix('models:/')} |"
    )
    assert [line.split(" | ")[1] for line in lines[2:]] == [
        *(f"variance {value:g}" for value in STRENGTHS["gaussian"]),
        *(f"peak {value:g}" for value in STRENGTHS["poisson"]),
    ]
    assert lines[2].startswith("| gaussian | variance 0.0025 | weaker | 0.00")
    assert lines[-1].startswith("| poisson | peak 1 | - | ")


@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--picture", "/no/such/folder/a.png"],
            2,
            "--picture: must be a .png file in a folder that exists and may be written to",
        ),
        (["--picture", "a.jpg"], 2, "received a.jpg"),
        (
            ["--markdown", "a.txt"],
            2,
            "--markdown: must be a .md file in a folder that exists and may be written to, received a.txt",
        ),
        (["--images", "0"], 2, "greater than or equal to 1"),
        (["--split", "train"], 2, "'train' is not one of"),
        ([], 1, "no model models:/dae@champion"),
    ],
)
def test_the_command_refuses_bad_usage(arguments: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(app, ["strengths", *arguments])
    assert result.exit_code == code
    assert message in result.stderr.replace("\n", " ")
