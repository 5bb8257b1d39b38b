"""The configuration: frozen, validated models, together a `PipelineConfig`, the training flow's only parameter."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import core_schema

from dae.extensions import BASELINES, GATE_CHECKS, LOSSES, NETWORKS, REFERENCE, Table, source_sha256
from dae.noise.kinds import Gaussian, Noise, Poisson, SaltAndPepper, Speckle, noise_shares
from dae.schemas import FrozenModel, reject_bool

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(reject_bool)]
Count = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(reject_bool)]
ShareOrAll = Annotated[float, Field(ge=0, le=1), BeforeValidator(reject_bool)]
Share = Annotated[float, Field(gt=0, lt=1), BeforeValidator(reject_bool)]
Tolerance = Annotated[float, Field(gt=-1, allow_inf_nan=False), BeforeValidator(reject_bool)]
logger = logging.getLogger(__name__)
MIN_SIDE = 8
CLEAN_INPUT = 0.0005
FORMER_TRAINING = {"optimizer": "adam", "clean_share": 0.0, "page_share": 0.0}
"""What every training did before it was configured."""
LATER_FIELDS: tuple[tuple[str, str, Any], ...] = (
    ("data", "also", None),
    ("model", "options", {}),
    ("train", "loss", "mse"),
    ("train", "ssim_weight", 0.0),
    ("gate", "checks", {}),
)
"""Fields that earlier runs did not have, with what they did."""
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_ -]*$"
"""Letters, digits, spaces, _ and -: a name of an experiment is a folder's, and MLflow refuses more in one of a model."""


class ConfigError(ValueError):
    """A configuration was refused; the message has one line a field, with its path."""


def with_present_names(tree: dict[str, Any], section: type[Section], *, warn: bool = True) -> dict[str, Any]:
    """Return a section's tree with its fields under their present names, and warn of each former one.

    Raises
    ------
    ValueError
        If a field is given under both of its names.
    """
    names = section.former_names
    for former in names.keys() & tree.keys():
        if names[former] in tree:
            raise ValueError(f"{section.path}.{former}: is the former name of {names[former]}; leave it out")
        if warn:
            warn_of_former_name(f"{section.path}.{former}", f"{section.path}.{names[former]}")
    return {names.get(key, key): value for key, value in tree.items()}


@functools.cache
def warn_of_former_name(former: str, present: str) -> None:
    """Warn once a process."""
    logger.warning("configuration: %s is now called %s", former, present)


class NameIn:
    """Annotation of a text that must be the name of an entry of a table of `dae.extensions`.

    Parameters
    ----------
    table : Table
    """

    def __init__(self, table: Table) -> None:
        self.table = table

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Return how it is validated: against the entries there are at that moment."""
        return core_schema.no_info_after_validator_function(self.table.require, handler(source))

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        """Return the names there are, and the form of a user's own."""
        names: dict[str, Any] = {"type": "string", "enum": list(self.table)}
        if not self.table.open_to_users:
            return names
        return {"anyOf": [names, {"type": "string", "pattern": f"^{REFERENCE.pattern}$"}]}


class Section(FrozenModel):
    """A section of the configuration, at its `path`. `former_names` maps the former names of its fields to the present ones."""

    path: ClassVar[str] = ""
    former_names: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, tree: Any) -> Any:
        return with_present_names(tree, cls) if isinstance(tree, dict) else tree


class DataConfig(Section):
    """Where the images come from and how they are split.

    MNIST is part of the package. Photographs are those in scikit-image's wheel, documents are rendered. Relative paths start at
    the project's folder.
    """

    path: ClassVar[str] = "data"
    former_names: ClassVar[Mapping[str, str]] = {"also": "extra_source"}

    source: Annotated[str, Field(min_length=1)] = Field(
        "mnist",
        description="mnist, fashion_mnist, photographs, documents, or the path of an .npz, .npy or IDX file or of a folder",
    )
    test_source: str | None = Field(None, description="test images, where the source has none of its own")
    validation: Literal["test"] | Count | Share = Field(
        5000,
        description="held out of the training images: a number, a share such as 0.1, or test: the test images are used",
    )
    test: Count | Share | None = Field(
        None, description="held out as test where there are no test images; null: as many as validation"
    )
    extra_source: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="a folder of images of the same shape; they are added to the source before any are held out",
    )
    limit: Count | None = Field(None, description="use only the source's first images, before any are held out")
    test_limit: Count | None = Field(None, description="use only the first test images")
    patch: Annotated[int, Field(ge=MIN_SIDE)] | None = Field(
        None,
        description="side in pixels of the patches that photographs, documents or the images of a folder are cut into",
    )
    seed: Seed = Field(0, description="of the split")

    @model_validator(mode="after")
    def _only_folders_are_cut(self) -> Self:
        if self.patch is not None and self.source in ("mnist", "fashion_mnist"):
            rule = "patch is for photographs, documents and folders of images"
            raise ValueError(f"{rule}, received patch {self.patch} for {self.source}")
        return self


class NoiseConfig(FrozenModel):
    """The mix of noise. Each image gets one kind, drawn by weight, as its law draws it or as an image file holds it."""

    kinds: tuple[Noise, ...] = Field(
        (Gaussian(), SaltAndPepper(), Poisson(), Speckle()),
        min_length=1,
        description="each image gets one, drawn by weight; a strength is a number, or a range {low: 0.01, high: 0.2}",
    )
    file_share: ShareOrAll = Field(
        0.5, description="share of noisy images that are as a file holds them: clipped to [0, 1] and rounded to 8 bits"
    )
    training: Literal["fresh", "frozen"] = Field(
        "fresh", description="fresh: training noise is drawn anew in every pass; frozen: once"
    )
    seed: Seed = Field(0, description="of the frozen noise")

    def shares(self) -> dict[str, float]:
        """Return the share of the images that get each kind, as drawn and as a file holds it, as `kinds.noise_shares` does."""
        return noise_shares(self.kinds, self.file_share)

    def user_sources(self) -> dict[str, str]:
        """Return the SHA-256 of the source of each user's own kind of noise, by its reference."""
        return {kind.kind: source_sha256(kind.kind) for kind in self.kinds if ":" in kind.kind}

    @model_validator(mode="before")
    @classmethod
    def _read_clip(cls, tree: Any) -> Any:
        """Take what older configurations and records have: ``clip``, for all images or none."""
        if not isinstance(tree, dict) or not isinstance(tree.get("clip"), bool) or "file_share" in tree:
            return tree
        return {key: value for key, value in tree.items() if key != "clip"} | {"file_share": float(tree["clip"])}

    @model_validator(mode="after")
    def _kinds_differ(self) -> Self:
        names = [kind.name for kind in self.kinds]
        if len(set(names)) < len(names):
            raise ValueError(f"kinds must differ from one another, received {', '.join(names)}")
        return self


class ModelConfig(FrozenModel):
    """The network: ``unet`` for images of any size from 8 pixels up, ``article`` for 28x28x1, or your own."""

    architecture: Annotated[str, NameIn(NETWORKS)] = Field(
        "unet", description="unet, article, or your own network as package.module:name"
    )
    width: Annotated[int, Field(ge=4, le=512)] = Field(24, description="unet: channels at half resolution")
    deep_width: Annotated[int, Field(ge=4, le=512)] = Field(48, description="unet: channels at quarter resolution")
    blocks: Annotated[int, Field(ge=1, le=32)] = Field(
        1, description="unet: residual blocks at half resolution, each way"
    )
    deep_blocks: Annotated[int, Field(ge=1, le=32)] = Field(
        1, description="unet: residual blocks at quarter resolution"
    )

    options: dict[str, bool | int | float | str] = Field(
        {}, description="parameters of your own network, such as {depth: 5}"
    )


class TrainConfig(FrozenModel):
    """The training recipe: the loss, the optimizer, what training images are like, and when to stop."""

    epochs: Count = Field(8, description="number of validations; an epoch has steps_per_epoch batches")
    batch_size: Count = Field(128, description="images in a batch")
    steps_per_epoch: Count | None = Field(
        300, description="batches in an epoch; null: one pass over the training images"
    )
    loss: Annotated[str, NameIn(LOSSES)] = Field(
        "mse",
        description="mse, mae, charbonnier, or your own as package.module:name; the gate judges MSE whatever it is",
    )
    ssim_weight: ShareOrAll = Field(0.0, description="weight w of SSIM in the loss: (1 - w) loss + w (1 - SSIM)")
    optimizer: Literal["muon", "adam"] = Field(
        "muon", description="muon: Muon for the convolutions and Adam for the rest; or adam"
    )
    learning_rate: Positive = Field(0.012, description="the highest, after the warm-up")
    beta_2: Share = Field(0.99, description="Adam's decay rate of the second moment")
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="cosine: the learning rate falls to 0 at the last step; or constant"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        120, description="of the cosine schedule: steps in which the rate rises from 0, at most half of all steps"
    )
    drop_last: bool = Field(True, description="leave out the last batch of a pass if it is smaller")
    patience: Count | None = Field(
        None, description="stop after this many epochs without a better validation MSE; null: never"
    )
    clean_share: ShareOrAll = Field(
        0.04, description="share of training images without noise, so that clean images are left as they are"
    )
    page_share: ShareOrAll = Field(
        0.25,
        description="share of training images that are windows of pages of four images, for larger images; not with data.patch",
    )
    jit_compile: bool = Field(False, description="compile the training step with XLA; on JAX it always is")
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="of the computation; weights, loss and output are always float32"
    )
    seed: Seed = Field(0, description="of the weights, the order of the images and the fresh noise")


class ChampionPolicy(FrozenModel):
    """How a challenger is compared with the champion: image by image, on the same frozen noisy images."""

    tolerance: Tolerance = Field(
        0.02,
        description="by this share the MSE may be above the champion's; negative: it must be below",
    )
    tolerance_per_kind: Tolerance | None = Field(0.1, description="the same for each kind of noise; null: no check")
    confidence: Annotated[float, Field(ge=0.5, lt=1), BeforeValidator(reject_bool)] = Field(
        0.95, description="of the bootstrap interval over images; its upper end must be within the tolerance"
    )
    incomparable: Literal["refuse", "absolute"] = Field(
        "refuse",
        description="if the champion takes other images or does not load: refuse, or absolute: use the other checks",
    )


class SmokeTestPolicy(FrozenModel):
    """What a registered version must do in a clean process: load, restore as recorded, and keep to the limits."""

    any_size: bool = Field(True, description="it takes images of another size than it was trained on")
    max_latency_ms: Positive | None = Field(None, description="limit of the 95th percentile of the time for one image")
    max_file_mib: Positive | None = Field(None, description="limit of the size of the model file")
    max_memory_mib: Positive | None = Field(
        None, description="limit of the peak memory of the process, with Keras and its backend"
    )


class GateConfig(Section):
    """What a model must show before it is promoted. A gate without a check of quality promotes nothing."""

    path: ClassVar[str] = "gate"
    former_names: ClassVar[Mapping[str, str]] = {"beat_nothing": "beat_noisy_input", "works": "smoke_test"}

    max_val_mse: Positive | None = Field(
        0.0069, description="limit of the validation MSE over all images; null: no check"
    )
    max_val_mse_per_kind: dict[str, Positive] = Field(
        {}, description="limits of single kinds: {poisson: 0.001} for both forms, {poisson_8bit: 0.001} for files"
    )
    clean_input: Positive | None = Field(
        CLEAN_INPUT,
        description="limit of the mean squared change of clean images, constants, bars and own output; null: no check",
    )
    beat_noisy_input: bool = Field(
        True, description="for each kind, the validation MSE is at most that of the noisy input"
    )
    champion: ChampionPolicy | None = Field(
        ChampionPolicy(), description="comparison with the champion on the same noisy images; null: no check"
    )
    smoke_test: SmokeTestPolicy | None = Field(
        SmokeTestPolicy(),
        description="the registered version in a clean process: loads, and restores as recorded; null: no check",
    )
    beat_baselines: tuple[Annotated[str, NameIn(BASELINES)], ...] = Field(
        (), description="classical methods to beat, tuned in this run: median, tv, nlm, wavelet, bm3d"
    )
    checks: dict[Annotated[str, NameIn(GATE_CHECKS)], Annotated[float, BeforeValidator(reject_bool)]] = Field(
        {}, description="limits of further checks by name, such as {min_val_ssim: 0.9}"
    )
    dry_run: bool = Field(False, description="decide, and change neither an alias nor the audit log")
    force: Annotated[str, Field(pattern=r"\S")] | None = Field(
        None, description="the reason to promote a model that works whatever the gate decides"
    )
    approval_hours: Positive | None = Field(
        None, description="hours to wait for a person's approval before promoting; null: no approval"
    )

    def without_switches(self) -> GateConfig:
        """Return the policy without dry run and force, which are set for one run. Approval is part of the policy."""
        return self.model_copy(update={"dry_run": False, "force": None})


class TrackingConfig(FrozenModel):
    """The names of runs and models in MLflow."""

    experiment: Annotated[str, Field(pattern=NAME)] = Field("denoising", description="MLflow's experiment")
    model_name: Annotated[str, Field(pattern=NAME)] = Field("dae", description="MLflow's registered model")
    run_name: str | None = Field(None, description="null: made of the data, the network, the epochs and the seed")
    resume: str | None = Field(None, description="id of an interrupted run to resume; dae train --resume sets it")


class PipelineConfig(FrozenModel):
    """Everything a run of the pipeline depends on."""

    data: DataConfig = DataConfig()
    noise: NoiseConfig = NoiseConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    gate: GateConfig = GateConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _limits_are_of_kinds_there_are(self) -> Self:
        kinds = [*self.noise.shares(), *(kind.name for kind in self.noise.kinds)]
        if unknown := [kind for kind in self.gate.max_val_mse_per_kind if kind not in kinds]:
            named, received = ", ".join(dict.fromkeys(kinds)), ", ".join(unknown)
            raise ValueError(f"gate.max_val_mse_per_kind must name kinds of noise.kinds ({named}), received {received}")
        return self

    @property
    def run_name(self) -> str:
        """The run's name: the configured one, or one that says what the run is."""
        if self.tracking.run_name:
            return self.tracking.run_name
        architecture = self.model.architecture
        model = f"unet{self.model.width}" if architecture == "unet" else architecture.rpartition(":")[2]
        return f"{Path(self.data.source).stem}-{model}-{self.train.epochs}ep-seed{self.train.seed}"

    @property
    def digest(self) -> str:
        """SHA-256 of everything that bears on the result: all but `tracking`.

        Fields that came later are left out where they have their default, so that earlier runs can be resumed.
        """
        tree = with_former_names(self.model_dump(mode="json", exclude={"tracking"}))
        for section, field, default in LATER_FIELDS:
            if tree[section][field] == default:
                del tree[section][field]
        if self.noise.file_share == 0 and FORMER_TRAINING.items() <= tree["train"].items():
            tree["train"] = {key: value for key, value in tree["train"].items() if key not in FORMER_TRAINING}
            tree["noise"] = {key: value for key, value in tree["noise"].items() if key != "file_share"} | {
                "clip": False
            }
            if self.gate.clean_input == CLEAN_INPUT:
                del tree["gate"]["clean_input"]
        if sources := self.user_sources():
            tree["sources"] = sources
        return config_sha256(tree)

    def user_sources(self) -> dict[str, str]:
        """Return the SHA-256 of the source of each user's own object that is configured, by its reference."""
        names = [name for name in (self.model.architecture, self.train.loss) if ":" in name]
        return {name: source_sha256(name) for name in names} | self.noise.user_sources()

    def flat(self) -> dict[str, str | int | float | bool | None]:
        """Return every value under its dotted path; a kind of noise stands under its name."""
        tree = self.model_dump(mode="json")
        tree["noise"]["kinds"] = {kind.pop("kind").rpartition(":")[2]: kind for kind in tree["noise"]["kinds"]}
        return dict(_leaves(tree))


SECTIONS: dict[str, type[Section]] = {"data": DataConfig, "gate": GateConfig}
"""Those of which fields were renamed."""


def with_former_names(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of a configuration with its fields under the names they had before they were renamed."""
    former = {
        name: {present: old for old, present in section.former_names.items()} for name, section in SECTIONS.items()
    }
    return tree | {
        name: {names.get(key, key): value for key, value in tree[name].items()}
        for name, names in former.items()
        if name in tree
    }


def add_former_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of a recorded configuration, which is whole, with what runs did before there were fields for it."""
    tree = tree | {
        name: with_present_names(tree[name], section, warn=False)
        for name, section in SECTIONS.items()
        if isinstance(tree.get(name), dict)
    }
    if "file_share" in tree.get("noise", {}):
        return tree
    return tree | {"train": FORMER_TRAINING | tree.get("train", {})}


def config_sha256(tree: Any) -> str:
    """Return the SHA-256 of a JSON tree in canonical form."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves += _leaves(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", ", ".join(value) if isinstance(value, list) else value))
    return leaves
