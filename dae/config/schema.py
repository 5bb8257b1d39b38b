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

from dae.noise.kinds import Gaussian, Noise, Poisson, SaltAndPepper, Speckle, noise_shares
from dae.schemas import FrozenModel, reject_bool

Positive = Annotated[float, BeforeValidator(reject_bool), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, strict=True)]
Seed = Annotated[int, BeforeValidator(reject_bool), Field(ge=0, lt=2**32)]
ShareOrAll = Annotated[float, BeforeValidator(reject_bool), Field(ge=0, le=1)]
Share = Annotated[float, BeforeValidator(reject_bool), Field(gt=0, lt=1)]
Tolerance = Annotated[float, BeforeValidator(reject_bool), Field(gt=-1, allow_inf_nan=False)]
logger = logging.getLogger(__name__)
MIN_SIDE = 8
CLEAN_INPUT = 0.0005
FORMER_TRAINING = {"optimizer": "adam", "clean_share": 0.0, "page_share": 0.0}
"""What every training did before it was configured."""
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9_ -]*$"
"""Letters, digits, spaces, _ and -: a name of an experiment is a folder's, and MLflow refuses more in one of a model."""


class ConfigError(ValueError):
    """A configuration was refused; the message has one line a field, with its path."""


def with_present_names(tree: dict[str, Any], names: Mapping[str, str], *, warn: bool = True) -> dict[str, Any]:
    """Return a section's tree with its fields under their present names, and warn of each former one.

    Raises
    ------
    ValueError
        If a field is given under both of its names.
    """
    for former in names.keys() & tree.keys():
        if names[former] in tree:
            raise ValueError(f"{former} is the former name of {names[former]}: leave it out")
        if warn:
            _warn_of(former, names[former])
    return {names.get(key, key): value for key, value in tree.items()}


@functools.cache
def _warn_of(former: str, present: str) -> None:
    """Warn once a process."""
    logger.warning("configuration: %s is now called %s", former, present)


class Section(FrozenModel):
    """A section of the configuration. `former_names` maps what its fields were called to what they are called now."""

    former_names: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, tree: Any) -> Any:
        return with_present_names(tree, cls.former_names) if isinstance(tree, dict) else tree


class DataConfig(Section):
    """Where the images come from and how they are split.

    `source` is ``mnist`` (part of the package), ``fashion_mnist``, ``photographs`` (scikit-image's), ``documents`` (rendered),
    or the path of an ``.npz``, ``.npy`` or IDX file or of a folder of images; relative paths start at the project's folder.
    """

    former_names: ClassVar[Mapping[str, str]] = {"also": "extra_source"}

    source: Annotated[str, Field(min_length=1)] = "mnist"
    test_source: str | None = Field(None, description="test images, where the source has none of its own")
    validation: Literal["test"] | Count | Share = Field(
        5000, description="held out of the training images by a seeded draw: a number or a share; or the test images"
    )
    test: Count | Share | None = Field(
        None, description="held out as test, where the source has no test images; None: as many as validation"
    )
    extra_source: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="a folder of images of the same shape that are added to those of the source, before any are held out",
    )
    limit: Count | None = Field(None, description="use only the source's first images, before any are held out")
    test_limit: Count | None = Field(None, description="use only the first test images")
    patch: Annotated[int, Field(ge=MIN_SIDE)] | None = Field(
        None, description="cut photographs, documents or the images of a folder into patches of so many pixels a side"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _only_folders_are_cut(self) -> Self:
        if self.patch is not None and self.source in ("mnist", "fashion_mnist"):
            rule = "patch is for photographs, documents and folders of images"
            raise ValueError(f"{rule}, received patch {self.patch} for {self.source}")
        return self


class NoiseConfig(FrozenModel):
    """The mix of noise. Each image gets one kind, drawn by weight, as its law draws it or as an image file holds it.

    `training` says how often training images get theirs.
    """

    kinds: tuple[Noise, ...] = Field((Gaussian(), SaltAndPepper(), Poisson(), Speckle()), min_length=1)
    file_share: ShareOrAll = Field(
        0.5, description="share of the noisy images that are as a file holds them: clipped to [0, 1], rounded to 8 bits"
    )
    training: Literal["fresh", "frozen"] = Field("fresh", description="draw training noise every epoch, or once")
    seed: Seed = 0

    def shares(self) -> dict[str, float]:
        """Return the share of the images that get each kind, as drawn and as a file holds it, as `kinds.noise_shares` does."""
        return noise_shares(self.kinds, self.file_share)

    @model_validator(mode="before")
    @classmethod
    def _read_clip(cls, tree: Any) -> Any:
        """Take what older configurations and records have: ``clip``, for all images or none."""
        if not isinstance(tree, dict) or not isinstance(tree.get("clip"), bool) or "file_share" in tree:
            return tree
        return {key: value for key, value in tree.items() if key != "clip"} | {"file_share": float(tree["clip"])}

    @model_validator(mode="after")
    def _kinds_differ(self) -> Self:
        names = [kind.kind for kind in self.kinds]
        if len(set(names)) < len(names):
            raise ValueError(f"kinds must differ from one another, received {', '.join(names)}")
        return self


class ModelConfig(FrozenModel):
    """The network: ``unet``, which takes images of any size from 8 pixels up, or the ``article``'s, which takes 28x28x1."""

    architecture: Literal["unet", "article"] = "unet"
    width: Annotated[int, Field(ge=4, le=512)] = Field(24, description="unet: channels at half resolution")
    deep_width: Annotated[int, Field(ge=4, le=512)] = Field(48, description="unet: channels at quarter resolution")
    blocks: Annotated[int, Field(ge=1, le=32)] = Field(
        1, description="unet: residual blocks at half resolution, each way"
    )
    deep_blocks: Annotated[int, Field(ge=1, le=32)] = Field(
        1, description="unet: residual blocks at quarter resolution"
    )

    def require(self, shape: tuple[int, int, int]) -> None:
        """Refuse an image shape ``(H, W, C)`` the network cannot take.

        Raises
        ------
        ConfigError
            Naming the rule and the shape.
        """
        if self.architecture == "article" and shape != (28, 28, 1):
            raise ConfigError(f"model.architecture article takes images of 28x28x1, received {_format_shape(shape)}")
        if min(shape[:2]) < MIN_SIDE:
            raise ConfigError(
                f"images must be at least {MIN_SIDE} pixels high and wide, received {_format_shape(shape)}"
            )


class TrainConfig(FrozenModel):
    """The training recipe: mean squared error, the optimizer, what training images are like, and when to stop."""

    epochs: Count = 8
    batch_size: Count = 128
    steps_per_epoch: Count | None = Field(
        300, description="batches from one validation to the next; None: one pass over the training images"
    )
    optimizer: Literal["muon", "adam"] = Field("muon", description="muon: for the convolutions, and Adam for the rest")
    learning_rate: Positive = 0.012
    beta_2: Share = Field(0.99, description="Adam's decay rate of the second moment")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="cosine: decays to 0 at the last step")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        120, description="cosine: steps in which the rate rises from 0, at most half of all"
    )
    drop_last: bool = Field(True, description="leave out a pass's last batch where it would be smaller")
    patience: Count | None = Field(None, description="stop after so many epochs without a better validation MSE")
    clean_share: ShareOrAll = Field(
        0.04, description="share of the training images that get no fresh noise, so that clean images are left alone"
    )
    page_share: ShareOrAll = Field(
        0.25,
        description="share of the training images that are windows of pages of four images, so that larger images are "
        "restored as well; not where images are patches of larger ones",
    )
    jit_compile: bool = Field(False, description="compile the training step with XLA")
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32", description="of the computation; weights, loss and output are float32 all the same"
    )
    seed: Seed = 0


class ChampionPolicy(FrozenModel):
    """How a challenger is compared with the champion: image by image, both scored now, on the same frozen noisy images."""

    tolerance: Tolerance = Field(
        0.02,
        description="by how much of the champion's MSE the challenger's may be above it; negative: must be below it",
    )
    tolerance_per_kind: Tolerance | None = Field(0.1, description="the same for each kind of noise; None: not asked")
    confidence: Annotated[float, BeforeValidator(reject_bool), Field(ge=0.5, lt=1)] = Field(
        0.95, description="of the bootstrap interval; its upper end must be within the tolerance"
    )
    incomparable: Literal["refuse", "absolute"] = Field(
        "refuse",
        description="where the champion takes other images or no longer loads: refuse, or judge by the other checks",
    )


class SmokeTestPolicy(FrozenModel):
    """What a registered version must do in a clean process: load as recorded, restore as before, and keep to the budgets."""

    any_size: bool = Field(True, description="must take images of another size than it was trained on")
    max_latency_ms: Positive | None = Field(None, description="95th percentile of the time for one image")
    max_file_mib: Positive | None = Field(None, description="size of the model file")
    max_memory_mib: Positive | None = Field(
        None, description="peak memory of the process, Keras and its backend included"
    )


class GateConfig(Section):
    """What a model must show before it is promoted, and how the gate is worked. With nothing asked, nothing is promoted."""

    former_names: ClassVar[Mapping[str, str]] = {"beat_nothing": "beat_noisy_input", "works": "smoke_test"}

    max_val_mse: Positive | None = Field(0.0069, description="limit of the pooled validation MSE")
    max_val_mse_per_kind: dict[str, Positive] = Field(
        {}, description="limits of the validation MSE of kinds of noise; poisson: in both forms, poisson_8bit: in files"
    )
    clean_input: Positive | None = Field(
        CLEAN_INPUT,
        description="limit of the mean squared change of images that are to stay as they are: clean ones and their borders, "
        "ones of a single value, black and white bars, the model's own output; None: not asked",
    )
    beat_noisy_input: bool = Field(True, description="for each kind, at most the validation MSE of the noisy input")
    champion: ChampionPolicy | None = Field(
        ChampionPolicy(), description="not worse than the champion; None: not asked"
    )
    smoke_test: SmokeTestPolicy | None = Field(
        SmokeTestPolicy(), description="works as a registered version; None: not asked"
    )
    beat_baselines: tuple[Literal["median", "tv", "nlm", "wavelet", "bm3d"], ...] = Field(
        (), description="classical methods, tuned on validation images in this run, each of which it must beat"
    )
    dry_run: bool = Field(False, description="judge, and change neither an alias nor the ledger")
    force: Annotated[str, Field(pattern=r"\S")] | None = Field(
        None, description="the reason for which a model that works is promoted whatever the verdict is"
    )
    approval_hours: Positive | None = Field(
        None, description="wait for so long for a person's approval before promoting; None: do not wait"
    )

    def without_switches(self) -> GateConfig:
        """Return the policy alone: dry run and force are asked for each time. Approval is part of the policy."""
        return self.model_copy(update={"dry_run": False, "force": None})


class TrackingConfig(FrozenModel):
    """Names under which MLflow keeps the runs and the models."""

    experiment: Annotated[str, Field(pattern=NAME)] = "denoising"
    model_name: Annotated[str, Field(pattern=NAME)] = "dae"
    run_name: str | None = Field(None, description="None: made of the data, the network, the epochs and the seed")
    resume: str | None = Field(None, description="id of an interrupted run to go on with")


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
        kinds = [*self.noise.shares(), *(kind.kind for kind in self.noise.kinds)]
        if unknown := [kind for kind in self.gate.max_val_mse_per_kind if kind not in kinds]:
            named, received = ", ".join(dict.fromkeys(kinds)), ", ".join(unknown)
            raise ValueError(f"gate.max_val_mse_per_kind must name kinds of noise.kinds ({named}), received {received}")
        return self

    @property
    def run_name(self) -> str:
        """The run's name: the configured one, or one that says what the run is."""
        if self.tracking.run_name:
            return self.tracking.run_name
        model = f"unet{self.model.width}" if self.model.architecture == "unet" else "article"
        return f"{Path(self.data.source).stem}-{model}-{self.train.epochs}ep-seed{self.train.seed}"

    @property
    def digest(self) -> str:
        """SHA-256 of everything that bears on the result: all but `tracking`."""
        tree = with_former_names(self.model_dump(mode="json", exclude={"tracking"}))  # as runs from then have it
        if self.data.extra_source is None:  # as before there was such a field, so that runs from then can be resumed
            del tree["data"]["also"]
        if self.noise.file_share == 0 and FORMER_TRAINING.items() <= tree["train"].items():  # likewise
            tree["train"] = {key: value for key, value in tree["train"].items() if key not in FORMER_TRAINING}
            tree["noise"] = {key: value for key, value in tree["noise"].items() if key != "file_share"} | {
                "clip": False
            }
            if self.gate.clean_input == CLEAN_INPUT:
                del tree["gate"]["clean_input"]
        return config_sha256(tree)

    def flat(self) -> dict[str, str | int | float | bool | None]:
        """Return every value under its dotted path; a kind of noise stands under its name."""
        tree = self.model_dump(mode="json")
        tree["noise"]["kinds"] = {kind.pop("kind"): kind for kind in tree["noise"]["kinds"]}
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
        name: with_present_names(tree[name], section.former_names, warn=False)
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
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", ", ".join(value) if isinstance(value, list) else value))
    return found


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
