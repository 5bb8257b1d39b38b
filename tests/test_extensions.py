"""One of each is added at run time, in one place, and is then everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from dae import extensions
from dae.cli import app
from dae.config import loading, reference
from dae.config.schema import ConfigError, GateConfig, NoiseConfig, PipelineConfig
from dae.data import datasets, noisy_datasets
from dae.evaluation import baselines, robustness, scores
from dae.evaluation.baselines import SampleSizes
from dae.evaluation.classical import Method
from dae.evaluation.tables import score_header, score_rows
from dae.networks import build
from dae.noise.kinds import Gaussian, NoiseKind
from dae.promotion.gate import evaluate_gate, min_val_psnr
from dae.promotion.schemas import GateInputs
from dae.schemas import Images, NoisySets
from dae.tracking.client import connect
from dae.tracking.run_logging import split_metrics
from dae.tracking.runs import open_run
from dae.training import fit
from dae.training.losses import TrainingLoss

OWN = '''
import numpy as np
from keras import Input, Model, layers, ops
from dae.noise.kinds import NoiseKind


class Banding(NoiseKind):
    """Lines of a sensor that are too bright."""

    strength = "height"
    sweep = (0.01, 0.1)
    kind: str
    height: float = 0.1

    def add_to(self, images, rng):
        images += self.height * rng.random((len(images), images.shape[1], 1, 1)) > 0.5


class Unfinished(NoiseKind):
    kind: str


def small(shape, seed, depth=1):
    x = inputs = Input((None, None, shape[2]))
    for _ in range(depth):
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    return Model(inputs, layers.Conv2D(shape[2], 3, padding="same", activation="sigmoid")(x), name="small")


def huber(clean, restored):
    return ops.minimum(ops.square(restored - clean), ops.abs(restored - clean))
'''


class Stripes(NoiseKind):
    """Bright columns."""

    strength: ClassVar[str] = "height"
    sweep: ClassVar[tuple[float, ...]] = (0.1, 0.5)
    kind: Literal["stripes"] = "stripes"
    height: float = 0.5

    def add_to(self, images: Images, rng: np.random.Generator) -> None:
        images[:, :, :: int(rng.integers(2, 4))] += self.height


class Mirror(Method):
    """Worse than the noisy input."""

    method: Literal["mirror"] = "mirror"

    @classmethod
    def grid(cls) -> tuple[Method, ...]:
        return (cls(),)

    def restore(self, image: Images) -> Images:
        return image[::-1]


def largest_error(restored: Images, clean: Images) -> np.ndarray:
    return np.asarray(np.abs(restored - clean).max(axis=(1, 2, 3)), np.float64)


def identity(noisy: Images) -> Images:
    return np.clip(noisy, 0, 1)


def small_config(home: Path, **sections: Any) -> PipelineConfig:
    images = np.random.default_rng(0).integers(0, 255, (60, 12, 12), np.uint8)
    np.save(home / "a.npy", images)
    data = {"source": str(home / "a.npy"), "validation": 20, "test": 20}
    return PipelineConfig.model_validate({"data": data, **sections})


def noisy_sets(config: PipelineConfig) -> NoisySets:
    return noisy_datasets.corrupt_sets(datasets.ingest(config.data), config.noise)


def test_a_noise_kind_is_in_the_schema_the_tables_the_metrics_the_sweep_and_the_reference(home: Path) -> None:
    with extensions.NOISE_KINDS.added("stripes", Stripes):
        config = small_config(home, noise={"kinds": [{"kind": "stripes", "height": 0.25}], "file_share": 0})
        assert "Stripes" in json.dumps(PipelineConfig.model_json_schema())
        assert "### stripes" in reference.reference_markdown()
        sets = noisy_sets(config)
        measured = scores.evaluate_model(identity, sets, "models:/m-1")[0]
        assert measured.validation.per_kind["stripes"].mse > 0
        assert [row[0] for row in score_rows(measured)] == ["stripes", "all"]
        assert "val_mse_stripes" in split_metrics("val", measured.validation)
        images = datasets.ingest(config.data).validation
        table = robustness.sweep_strengths({"same": identity}, images, config.noise, "validation", 10)
        assert sorted(set(table["strength"])) == [0.1, 0.5]
        assert "noise.kinds.stripes.height" in config.flat()
        assert loading.validate(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="must be a noise kind"):
        loading.load(settings=["noise.kinds.0={kind: stripes}"])


def test_a_metric_is_in_the_scores_the_tables_and_mlflow(home: Path) -> None:
    config = small_config(home)
    with extensions.METRICS.added("largest_error", largest_error):
        measured = scores.evaluate_model(identity, noisy_sets(config), "models:/m-1")[0]
        assert "`largest_error`" in reference.reference_markdown()
    others = measured.validation.pooled.others
    assert 0 < others["largest_error"] <= 1
    metrics = split_metrics("test", measured.test)
    assert metrics["test_largest_error"] == measured.test.pooled.others["largest_error"]
    assert {"test_largest_error_gaussian", "test_largest_error_nothing", "test_largest_error_8bit"} <= metrics.keys()
    assert score_header(measured)[-2] == "largest error"
    assert {len(row) for row in score_rows(measured)} == {len(score_header(measured))}
    stored = json.loads(json.dumps(measured.model_dump(mode="json")))
    assert type(measured).model_validate(stored).test.pooled == measured.test.pooled


def test_a_network_is_in_the_schema_and_is_built(home: Path) -> None:
    def single(shape: tuple[int, int, int], seed: int | None, size: int = 3) -> keras.Model:
        inputs = keras.Input(shape)
        return keras.Model(inputs, keras.layers.Conv2D(shape[2], size, padding="same")(inputs))

    with extensions.NETWORKS.added("single", single):
        config = small_config(home, model={"architecture": "single", "options": {"size": 5}})
        model = build.build_network(config.model, (12, 12, 1))
        assert model.count_params() == 26
        assert "single" in json.dumps(PipelineConfig.model_json_schema())
        assert config.run_name == "a-single-8ep-seed0"
        wrong = config.model.model_copy(update={"options": {"depth": 5}})
        with pytest.raises(ConfigError, match=r"model.options must be parameters of single \(size\), received depth"):
            build.require_image_shape(wrong, (12, 12, 1))


@pytest.mark.parametrize(
    "settings", [{"loss": "mae"}, {"loss": "charbonnier"}, {"ssim_weight": 0.3}, {"loss": "cubic"}]
)
def test_a_loss_trains_and_a_checkpoint_of_it_is_opened_again(home: Path, settings: dict[str, Any]) -> None:
    def cubic(clean: Any, restored: Any) -> Any:
        return keras.ops.power(keras.ops.abs(restored - clean), 3)

    train = {"epochs": 2, "batch_size": 8, "steps_per_epoch": 2, **settings}
    with extensions.LOSSES.added("cubic", cubic):
        config = small_config(home, model={"width": 4, "deep_width": 4}, train=train)
        images = datasets.ingest(config.data)
        shorter = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})})
        assert "cubic" in json.dumps(PipelineConfig.model_json_schema())
        folder = home / "checkpoint"
        fit.fit_network(shorter, images, noisy_sets(config), folder)
        state = folder / "state.json"
        state.write_text(state.read_text().replace(shorter.digest, config.digest))
        _, history = fit.fit_network(config, images, noisy_sets(config), folder)
    assert len(history) == 2
    assert all(np.isfinite(row["train_loss"]) for row in history)


@pytest.mark.parametrize("name", ["mae", "charbonnier"])
def test_a_loss_is_what_its_name_says(name: str) -> None:
    clean, restored = np.zeros((2, 9, 9, 1), np.float32), np.full((2, 9, 9, 1), 0.5, np.float32)
    assert np.asarray(TrainingLoss(name)(clean, restored)) == pytest.approx(0.5, abs=1e-3)


def test_the_ssim_of_the_loss_is_that_of_the_metric() -> None:
    rng = np.random.default_rng(1)
    clean = rng.random((3, 16, 20, 3), np.float32)
    restored = np.clip(clean + rng.normal(0, 0.1, clean.shape), 0, 1).astype(np.float32)
    expected = 1 - extensions.METRICS.load("ssim")(restored, clean).mean()
    assert float(TrainingLoss("mse", 1.0)(clean, restored)) == pytest.approx(expected, abs=1e-4)
    half = 0.5 * expected + 0.5 * float(np.mean((clean - restored) ** 2))
    assert float(TrainingLoss("mse", 0.5)(clean, restored)) == pytest.approx(half, abs=1e-4)


def test_a_classical_baseline_is_tuned_scored_and_known_to_the_gate_and_the_command(home: Path) -> None:
    config = small_config(home)
    with extensions.BASELINES.added("mirror", Mirror):
        (result,) = baselines.run_baseline("mirror", noisy_sets(config), SampleSizes(tune=16, images=16))
        assert result.scores.test.pooled.mse > result.scores.test.pooled_nothing.mse
        assert loading.load(settings=["gate.beat_baselines=[mirror]"]).gate.beat_baselines == ("mirror",)
        assert "mirror" in baselines.available_methods()
        help_text = CliRunner().invoke(app, ["baselines", "--methods", "magic"]).stderr
    assert "mirror" in help_text


def test_a_check_of_the_gate_is_configured_by_its_name_and_decides(home: Path) -> None:
    measured = scores.evaluate_model(identity, noisy_sets(small_config(home, noise={"file_share": 0})), "models:/m-1")[
        0
    ]
    policy = {"max_val_mse": None, "beat_noisy_input": False, "champion": None, "smoke_test": None, "clean_input": None}
    with extensions.GATE_CHECKS.added("min_quality", min_val_psnr):
        for limit, promoted in ((-100, True), (100, False)):
            gate = GateConfig.model_validate({**policy, "checks": {"min_quality": limit}})
            result = evaluate_gate(GateInputs(scores=measured), gate)
            assert result.promoted == promoted
            assert [check.name for check in result.checks] == ["min_quality"]
    with pytest.raises(ConfigError, match=r"gate.checks.min_quality: must be a check of the gate"):
        loading.load(settings=["gate.checks={min_quality: 3}"])


@pytest.mark.parametrize("value", [float("nan"), None])
def test_a_further_check_fails_closed(home: Path, value: float | None) -> None:
    measured = scores.evaluate_model(identity, noisy_sets(small_config(home, noise={"file_share": 0})), "models:/m-1")[
        0
    ]
    pooled = measured.validation.pooled.model_copy(update={"ssim": value})
    broken = measured.model_copy(update={"validation": measured.validation.model_copy(update={"pooled": pooled})})
    gate = GateConfig(checks={"min_val_ssim": -1.0}, champion=None, smoke_test=None, clean_input=None)
    result = evaluate_gate(GateInputs(scores=broken), gate)
    assert "min_val_ssim" in [check.name for check in result.checks if not check.passed]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's package that the machine allows; its name."""
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "parts.py").write_text(OWN)
    (tmp_path / "ownpackage" / "broken.py").write_text("raise RuntimeError('half of it')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(extensions.ALLOWED, "other, ownpackage")
    for name in [name for name in sys.modules if name.startswith("ownpackage")]:
        monkeypatch.delitem(sys.modules, name)
    return "ownpackage.parts"


def test_a_users_own_is_imported_only_from_packages_that_the_machine_allows(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(extensions.ALLOWED, "other")
    for setting in (
        f"model.architecture={own}:small",
        f"train.loss={own}:huber",
        f"noise.kinds.0={{kind: '{own}:Banding'}}",
    ):
        with pytest.raises(ConfigError, match="DAE_ALLOWED_PACKAGES must name the package ownpackage; set it"):
            loading.load(settings=[setting])
    assert own not in sys.modules


def test_a_users_own_network_noise_and_loss_are_trained_and_recorded(own: str, home: Path, tmp_path: Path) -> None:
    config = small_config(
        home,
        noise={"kinds": [{"kind": f"{own}:Banding", "height": 0.2}, {"kind": "gaussian"}]},
        model={"architecture": f"{own}:small", "options": {"depth": 2}},
        train={"epochs": 1, "batch_size": 8, "steps_per_epoch": 2, "loss": f"{own}:huber"},
    )
    assert list(config.noise.shares()) == ["Banding", "gaussian", "Banding_8bit", "gaussian_8bit"]
    model, _ = fit.fit_network(config, datasets.ingest(config.data), noisy_sets(config), home / "checkpoint")
    with open_run(config, "none") as run_id:
        pass
    tags = connect().get_run(run_id).data.tags
    digest = extensions.source_sha256(f"{own}:small")
    assert {tags[f"source_sha256.{own}:{name}"] for name in ("small", "huber", "Banding")} == {digest}
    model.save(tmp_path / "own.keras")
    program = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1], compile=False)\n"
        "print(model.predict(np.zeros((1, 9, 9, 1), 'float32'), verbose=0).shape, 'dae' in sys.modules)\n"
    )
    opened = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "own.keras")], capture_output=True, text=True, check=False
    )
    assert opened.stdout.splitlines()[-1] == "(1, 9, 9, 1) False", opened.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.architecture={own}:gone", "model.architecture: .* cannot be imported: AttributeError"),
        ("train.loss=ownpackage.gone:huber", "train.loss: .* cannot be imported: ModuleNotFoundError"),
        ("noise.kinds.0={{kind: '{own}:small'}}", "must be a subclass of dae.noise.kinds.NoiseKind"),
        ("noise.kinds.0={{kind: '{own}:Banding', width: 3}}", "noise.kinds.0.width: unknown key"),
        ("model.architecture={own}:np", "must be a function or class that is defined in ownpackage"),
        ("train.loss={own}:layers", "must be a function or class that is defined in ownpackage"),
        ("noise.kinds.0={{kind: '{own}:NoiseKind'}}", "must be a function or class that is defined in ownpackage"),
        ("noise.kinds.0={{kind: '{own}:Unfinished'}}", "must be a subclass of dae.noise.kinds.NoiseKind"),
        ("train.loss=ownpackage.broken:huber", "train.loss: .* cannot be imported: RuntimeError: half of it"),
        ("model.architecture=os.path", "must be a network: unet, article, or your own as package.module:name"),
    ],
)
def test_a_reference_that_is_wrong_is_refused_with_its_path(own: str, setting: str, message: str) -> None:
    def use() -> None:
        config = loading.load(settings=[setting.format(own=own)])
        build.require_image_shape(config.model, (28, 28, 1))
        TrainingLoss(config.train.loss)

    with pytest.raises((ConfigError, extensions.ExtensionError), match=message):
        use()


def test_a_kind_keeps_its_class_through_the_configuration() -> None:
    assert NoiseConfig.model_validate({"kinds": [Gaussian(variance=0.3)]}).kinds == (Gaussian(variance=0.3),)


def test_the_source_of_a_users_own_is_part_of_the_digests_of_the_run_and_of_its_noise(
    own: str, home: Path, tmp_path: Path
) -> None:
    config = small_config(home, noise={"kinds": [{"kind": f"{own}:Banding"}]})
    before = config.digest, noisy_sets(config).validation.path
    parts = tmp_path / "ownpackage" / "parts.py"
    parts.write_text(parts.read_text().replace("> 0.5", "> 0.1"))
    assert config.digest != before[0]
    assert noisy_sets(config).validation.path != before[1]


def test_prefect_takes_a_users_own_in_the_parameters_of_a_flow(own: str) -> None:
    from prefect.utilities.callables import parameter_schema
    from prefect.utilities.schema_tools.validation import validate

    from flows.train import train_denoiser

    schema = parameter_schema(train_denoiser).model_dump()
    kinds = [{"kind": f"{own}:Banding", "height": 0.2}, {"kind": "gaussian", "variance": {"low": 0.1, "high": 0.2}}]
    tree = {"noise": {"kinds": kinds}, "model": {"architecture": f"{own}:small"}, "train": {"loss": f"{own}:huber"}}
    assert not validate({"config": tree}, schema, raise_on_error=False)
    wrong = {"noise": {"kinds": [{"kind": "gaussian", "peak": 3}]}}
    assert validate({"config": wrong}, schema, raise_on_error=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 2}, "model.options must not hold fields of model, received width"),
        ({"depth": 2}, "model.options must be parameters of unet"),
    ],
)
def test_options_of_a_network_neither_pass_by_the_schema_nor_are_unknown(options: dict[str, Any], message: str) -> None:
    config = PipelineConfig.model_validate({"model": {"options": options}})
    with pytest.raises(ConfigError, match=message):
        build.require_image_shape(config.model, (28, 28, 1))


def test_a_network_may_take_any_option() -> None:
    def free(shape: tuple[int, int, int], seed: int | None, **options: int) -> keras.Model:
        inputs = keras.Input(shape)
        return keras.Model(inputs, keras.layers.Conv2D(shape[2], options["size"], padding="same")(inputs))

    with extensions.NETWORKS.added("free", free):
        config = PipelineConfig.model_validate({"model": {"architecture": "free", "options": {"size": 1}}})
        assert build.build_network(config.model, (8, 8, 1)).count_params() == 2


def test_a_built_in_entry_is_not_replaced() -> None:
    with pytest.raises(extensions.ExtensionError, match="mse is a loss already"), extensions.LOSSES.added("mse", None):
        pass
    assert "mse" in extensions.LOSSES
