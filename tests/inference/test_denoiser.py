"""A model at work: arrays of every shape and type, files, what is planned, and what need not be done again."""

from __future__ import annotations

import functools
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import dae
from dae.config.schema import ModelConfig, PipelineConfig
from dae.data.arrays import DataError
from dae.inference import files, resume
from dae.inference.denoiser import ImageDenoiser
from dae.inference.files import FileJob, PlanError, plan_files
from dae.networks import autoencoder, build
from dae.networks.predict import make_denoiser as plain
from dae.schemas import Images, TrainingDomain
from dae.tracking import log_model, models
from dae.tracking.client import connect
from dae.tracking.runs import open_run

TRAINED = TrainingDomain(image_shape=(28, 28, 1), noise_sigma=(0.05, 0.3), intensity=(0.0, 1.0))


@functools.cache
def network(channels: int) -> keras.Model:
    """A small network whose every layer matters: as built, the last convolution of each block is zero."""
    keras.utils.set_random_seed(0)
    model = build.build_network(ModelConfig(width=8, deep_width=8), (28, 28, channels))
    rng = np.random.default_rng(0)
    model.set_weights([weights + rng.normal(0, 0.05, weights.shape) for weights in model.get_weights()])
    return model


def image(*shape: int) -> Images:
    return np.random.default_rng(0).random(shape, np.float32)


def test_an_image_no_larger_than_a_tile_is_what_the_model_gives() -> None:
    noisy = image(3, 30, 37, 1)
    found = ImageDenoiser(network(1), "small")(noisy)
    np.testing.assert_allclose(found, network(1).predict_on_batch(noisy), atol=1e-5)


@pytest.mark.parametrize("size", [(200, 90), (91, 333), (64, 64)])
def test_a_larger_one_is_close_to_it(size: tuple[int, int]) -> None:
    noisy = image(1, *size, 3)
    found = ImageDenoiser(network(3), "small", tile=64)(noisy)
    whole = plain(network(3))(noisy)
    assert np.abs(found - whole).mean() < 0.1 * np.abs(whole - noisy).mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64, ">u2"])
@pytest.mark.parametrize(
    "shape", [(30, 37), (30, 37, 1), (30, 37, 2), (30, 37, 3), (30, 37, 4), (5, 30, 37), (2, 30, 37, 3)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_shape_and_type_comes_back_as_it_was(channels: int, shape: tuple[int, ...], dtype: Any) -> None:
    scale = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    noisy = (image(*shape) * scale).astype(dtype)
    kept = noisy.copy()
    found = ImageDenoiser(network(channels), "small")(noisy)
    assert (found.shape, found.dtype) == (noisy.shape, noisy.dtype)
    np.testing.assert_array_equal(noisy, kept)
    alpha = slice(-1, None) if shape[-1] in (2, 4) else slice(0)
    np.testing.assert_array_equal(found[..., alpha], noisy[..., alpha])
    in_floats = ImageDenoiser(network(channels), "small")((noisy.astype(np.float64) / scale).astype(np.float32))
    expected = np.clip(in_floats, 0, 1) if scale > 1 else in_floats
    np.testing.assert_allclose(found.astype(np.float64) / scale, expected, atol=max(1e-3, 0.51 / scale))


@pytest.mark.parametrize("shape", [(1, 150, 90, 3), (1, 20, 30, 1), (3, 70, 40, 1)])
def test_in_place_it_is_the_same(shape: tuple[int, ...]) -> None:
    noisy = image(*shape)
    denoiser = ImageDenoiser(network(shape[3]), "small", tile=64)
    expected = denoiser.restore(noisy.copy())
    assert denoiser.restore(noisy, in_place=True) is noisy
    np.testing.assert_array_equal(noisy, expected)


def test_a_grey_model_restores_each_channel_by_itself() -> None:
    noisy = image(20, 20, 3)
    found = ImageDenoiser(network(1), "grey")(noisy)
    for channel in range(3):
        alone = network(1).predict_on_batch(noisy[None, ..., channel, None])[0, ..., 0]
        np.testing.assert_allclose(found[..., channel], alone, atol=1e-5)


def test_a_model_of_colours_sees_a_grey_image_three_times() -> None:
    noisy = image(20, 20)
    found = ImageDenoiser(network(3), "rgb")(noisy)
    threefold = network(3).predict_on_batch(np.repeat(noisy[None, ..., None], 3, axis=3))[0]
    np.testing.assert_allclose(found, threefold.mean(axis=2), atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (28, 28), (29, 28), (100, 61)])
def test_a_model_of_fixed_size_takes_any_size_too(size: tuple[int, int]) -> None:
    doubled = keras.Input((28, 28, 1))
    model = keras.Model(doubled, keras.layers.Rescaling(2.0)(doubled))
    noisy = image(*size)
    np.testing.assert_allclose(ImageDenoiser(model, "fixed")(noisy), 2 * noisy, atol=1e-5)


def test_the_articles_network_restores_a_larger_image() -> None:
    noisy = image(50, 61)
    assert ImageDenoiser(autoencoder.build_autoencoder(), "article")(noisy).shape == noisy.shape


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 300), (300, 3)])
def test_images_smaller_than_the_network_takes_are_restored(size: tuple[int, int]) -> None:
    found = ImageDenoiser(network(1), "small", tile=64)(image(*size))
    assert found.shape == size
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[0.5]], TypeError, "images must be a NumPy array, received list"),
        (np.zeros((9, 9), np.int64), ValueError, "pixels must be uint8, uint16, or floats .* received int64"),
        (np.zeros(9, np.uint8), ValueError, r"images must have shape .* received \(9,\)"),
        (np.zeros((2, 9, 9, 7), np.uint8), ValueError, r"received \(2, 9, 9, 7\)"),
        (np.zeros((0, 9, 9), np.uint8), ValueError, r"none may be empty; received \(0, 9, 9\)"),
        (np.full((9, 9), np.nan), ValueError, "float pixels must be finite"),
    ],
)
def test_what_is_no_image_is_refused(images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ImageDenoiser(network(1), "small")(images)


def test_a_model_of_something_else_is_refused() -> None:
    vector = keras.Input((4,))
    with pytest.raises(ValueError, match=r"mine: must map images \(N, H, W, C\), C 1 or 3"):
        ImageDenoiser(keras.Model(vector, keras.layers.Dense(4)(vector)), "mine")


def test_arrays_unlike_the_training_images_are_warned_about() -> None:
    denoiser = ImageDenoiser(network(1), "small", TRAINED)
    with pytest.warns(UserWarning, match="images: its intensities are mostly from") as caught:
        denoiser(255 * image(64, 64))
    assert caught[0].filename == __file__


def test_a_model_is_loaded_by_alias_with_what_it_was_trained_on(mlflow_store: Path, tmp_path: Path) -> None:
    with open_run(PipelineConfig(), "none") as run_id:
        _, uri = log_model.log_model(run_id, network(1), np.zeros((1, 28, 28, 1), np.float32), "dae", TRAINED)
    client = connect()
    client.create_registered_model("dae")
    client.create_model_version("dae", uri, run_id)
    client.set_registered_model_alias("dae", "champion", "1")
    loaded = dae.load("models:/dae@champion")
    assert (loaded.name, loaded.trained_on) == ("models:/dae/1", TRAINED)
    noisy = (image(2, 20, 20) * 255).astype(np.uint8)
    np.testing.assert_array_equal(loaded(noisy), ImageDenoiser(network(1), "")(noisy))
    assert models.resolve_reference("models:/dae@champion") == "models:/dae/1"

    network(1).save(tmp_path / "saved.keras")
    of_file = dae.load(str(tmp_path / "saved.keras"))
    assert of_file.trained_on is None
    np.testing.assert_array_equal(of_file(noisy), loaded(noisy))
    (tmp_path / "bad.keras").write_bytes(b"garbage")
    with pytest.raises(
        models.ModelError, match=r"bad\.keras: must be a model saved by Keras; found a file that is none"
    ):
        dae.load(str(tmp_path / "bad.keras"))
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(models.ModelError, match=r"bad\.keras: must be a model saved by Keras; found \w+: "):
        dae.load(str(tmp_path / "bad.keras"))
    for missing in ("models:/dae@nobody", str(tmp_path / "none.keras")):
        with pytest.raises(models.ModelError):
            dae.load(missing)
        with pytest.raises(models.ModelError):
            models.resolve_reference(missing)


def save(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = (image(24, 24) * 255).astype(np.uint8) if pixels is None else pixels
    Image.fromarray(made).save(path)
    return path


def places(jobs: tuple[FileJob, ...], out: Path) -> list[str]:
    return [str(job.output.relative_to(out)) for job in jobs]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg", "deep/c.tif", "deep/er/d.png", ".hidden/e.png", ".f.png"):
        save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def test_files_folders_and_patterns_are_planned_with_their_places(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert places(plan_files([str(photos)], out), out) == ["a.png", "b.jpg", "deep/c.tif", "deep/er/d.png"]
    assert places(plan_files([str(photos / "deep" / "c.tif"), str(photos / "a.png")], out), out) == ["c.tif", "a.png"]
    assert places(plan_files([f"{photos}/*.*"], out), out) == ["a.png", "b.jpg"]
    assert places(plan_files([f"{photos}/**/*.png"], out), out) == ["a.png", "deep/er/d.png"]
    assert places(plan_files([f"{photos}/d*"], out), out) == ["deep/c.tif", "deep/er/d.png"]


def test_a_file_given_twice_is_planned_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (job,) = plan_files(["photos/a.png", str(photos / "a.png"), "./photos/*.png"], tmp_path / "out")
    assert job == FileJob(input=Path("photos/a.png"), output=tmp_path / "out" / "a.png")


def test_links_to_nothing_in_a_folder_are_planned_so_that_they_are_told(photos: Path, tmp_path: Path) -> None:
    (photos / "circle.png").symlink_to("circle.png")
    (photos / "lost.png").symlink_to("gone.png")
    jobs = plan_files([str(photos)], tmp_path / "out")
    assert places(jobs, tmp_path / "out") == ["a.png", "b.jpg", "circle.png", "deep/c.tif", "deep/er/d.png", "lost.png"]
    told = files.denoise_file(ImageDenoiser(network(1), "small"), jobs[-1]).error
    assert told == f"{photos / 'lost.png'}: must be a file; found a link to gone.png, which is not there"


def test_outputs_below_the_input_are_no_inputs(photos: Path) -> None:
    out = photos / "clean"
    first = plan_files([str(photos)], out)
    for job in first:
        save(job.output)
    assert plan_files([str(photos)], out) == first


def test_a_single_file_may_go_to_a_file(photos: Path, tmp_path: Path) -> None:
    job = FileJob(input=photos / "b.jpg", output=tmp_path / "new" / "x.JPEG")
    assert plan_files([str(photos / "b.jpg")], job.output) == (job,)


@pytest.mark.parametrize(
    ("inputs", "out", "message"),
    [
        (["photos"], "photos", "photos/a.png: must not be an input"),
        (["photos/a.png"], "photos", "photos/a.png: must not be an input"),
        (["photos/a.png"], "photos/a.png", "photos/a.png: must not be an input"),
        (["photos/a.png", "photos/b.jpg"], "x.png", "must be a folder unless the input is a single file"),
        (["photos"], "x.png", "must be a folder unless the input is a single file"),
        (["photos/a.png"], "x.tif", "must be of the input's format, .png; received x.tif"),
        (["photos/a.png"], "photos/notes.txt", "photos/notes.txt is a file"),
        (["photos", "photos/deep/er/d.png", "other/d.png"], "out", "out/d.png: must come of one input"),
        (["photos"], "photos/notes.txt/sub", "must lie in a folder; photos/notes.txt is a file"),
        (["photos/a.png"], "photos/notes.txt/x.png", "must lie in a folder; photos/notes.txt is a file"),
        (["photos/notes.txt"], "out", "photos/notes.txt: must be one of .png, .*; found .txt"),
        (["photos/*.gif"], "out", r"photos/\*.gif: must lead to image files .* found none"),
        (["other/empty"], "out", "other/empty: must lead to image files .* found none"),
        (["nowhere"], "out", "nowhere: must be a file, a folder or a pattern; found nothing there"),
    ],
)
def test_what_does_not_go_together_is_told(
    photos: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], out: str, message: str
) -> None:
    monkeypatch.chdir(photos.parent)
    save(Path("other/d.png"))
    Path("other/empty").mkdir()
    with pytest.raises(PlanError, match=message):
        plan_files(inputs, Path(out))


def test_a_link_to_an_input_is_not_written_to(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(photos / "a.png")
    with pytest.raises(PlanError, match="must not be an input"):
        plan_files([str(photos / "a.png")], tmp_path / "out")


def test_a_file_is_restored_as_an_array_is(tmp_path: Path) -> None:
    noisy = (image(70, 90, 3) * 255).astype(np.uint8)
    job = FileJob(input=save(tmp_path / "a.png", noisy), output=tmp_path / "out" / "a.png")
    denoiser = ImageDenoiser(network(3), "small", tile=64)
    shares: list[float] = []
    assert files.denoise_file(denoiser, job, progress=shares.append) == files.FileResult(**job.model_dump())
    with Image.open(job.output) as found:
        np.testing.assert_array_equal(np.asarray(found), denoiser(noisy))
    assert sum(shares) == pytest.approx(1)
    assert len(shares) > 1


def test_a_file_that_is_there_is_replaced_only_when_told(tmp_path: Path) -> None:
    job = FileJob(input=save(tmp_path / "a.png"), output=tmp_path / "out.png")
    job.output.write_bytes(b"mine")
    denoiser = ImageDenoiser(network(1), "small")
    outcome = files.denoise_file(denoiser, job)
    assert outcome.error == f"{job.output}: must not be there yet, unless it may be overwritten; found a file"
    assert job.output.read_bytes() == b"mine"
    assert files.denoise_file(denoiser, job, overwrite=True).error is None
    assert job.output.read_bytes() != b"mine"


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("broken"), KeyboardInterrupt()])
def test_whatever_goes_wrong_leaves_the_old_file_and_no_half_written_one(tmp_path: Path, error: BaseException) -> None:
    class Failing(ImageDenoiser):
        def restore(
            self, images: np.ndarray, rows_done: Callable[[int], None] = print, *, in_place: bool = False
        ) -> np.ndarray:
            raise error

    job = FileJob(input=save(tmp_path / "in" / "a.png"), output=tmp_path / "out" / "a.png")
    save(job.output)
    before = job.output.read_bytes()
    failing = Failing(network(1), "failing")
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            files.denoise_file(failing, job, overwrite=True)
    else:
        told = files.denoise_file(failing, job, overwrite=True).error
        assert told == f"{job.input}: not restored: {type(error).__name__}: {error}"
    assert list(job.output.parent.iterdir()) == [job.output]
    assert job.output.read_bytes() == before


class Meanwhile(ImageDenoiser):
    """While it works, something comes to be at the output."""

    def __init__(self, make: Callable[[], object]) -> None:
        super().__init__(network(1), "meanwhile")
        self.make = make

    def restore(
        self, images: np.ndarray, rows_done: Callable[[int], None] = print, *, in_place: bool = False
    ) -> np.ndarray:
        self.make()
        return images


def test_what_comes_to_be_there_while_a_file_is_restored_is_not_replaced(tmp_path: Path) -> None:
    job = FileJob(input=save(tmp_path / "a.png"), output=tmp_path / "out" / "a.png")
    denoiser = Meanwhile(lambda: job.output.write_bytes(b"mine"))
    told = files.denoise_file(denoiser, job).error
    assert told == f"{job.output}: must not be there yet, unless it may be overwritten; found a file"
    assert job.output.read_bytes() == b"mine"
    assert list(job.output.parent.iterdir()) == [job.output]
    assert files.denoise_file(denoiser, job, overwrite=True).error is None
    assert job.output.read_bytes() != b"mine"


def test_a_link_to_nothing_at_the_output_is_not_replaced(tmp_path: Path) -> None:
    job = FileJob(input=save(tmp_path / "a.png"), output=tmp_path / "out.png")
    job.output.symlink_to("gone")
    told = files.denoise_file(ImageDenoiser(network(1), "small"), job).error
    assert "out.png: must not be there yet" in str(told)
    assert job.output.is_symlink()


def test_an_output_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for output, found in (
        (tmp_path / "file" / "deep" / "a.png", f"must lie in a folder; found {tmp_path / 'file'}, which is none"),
        (tmp_path / "folder.png", "must be a file; found a folder"),
    ):
        outcome = files.denoise_file(Meanwhile(pytest.fail), FileJob(input=source, output=output), overwrite=True)
        assert outcome.error == f"{output}: {found}"


def test_a_folder_that_may_not_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(DataError, match=r"must lie in a folder that can be written to; found .*, which cannot"):
        files.require_writable_output(tmp_path / "new" / "a.png", overwrite=False)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.nan, np.float32, "float pixels must be finite; found NaN or infinity"),
        (-np.inf, np.float16, "float pixels must be finite; found NaN or infinity"),
        (1e300, np.float64, "float pixels must be within 3.4e+38; found 1e+300"),
        (3e38, np.float32, "what the model makes of an image must be finite; found NaN or infinity"),
        (6e4, np.float16, "restored pixels must be within 6.55e+04; found"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.filterwarnings("ignore:images")
def test_what_is_not_finite_before_or_after_is_refused(tmp_path: Path, value: float, dtype: Any, message: str) -> None:
    pixels = image(30, 30).astype(dtype)
    pixels[4:9, 4:9] = value
    np.save(tmp_path / "a.npy", pixels)
    gain = keras.Input((None, None, 1))
    denoiser = ImageDenoiser(keras.Model(gain, keras.layers.Rescaling(2.0)(gain)), "gain", TRAINED)
    outcome = files.denoise_file(denoiser, FileJob(input=tmp_path / "a.npy", output=tmp_path / "out.npy"), anyway=True)
    assert str(outcome.error).startswith(f"{tmp_path / 'a.npy'}: {message}")
    assert not (tmp_path / "out.npy").exists()
    with pytest.raises(ValueError, match="images: ") as caught:
        denoiser(pixels)
    assert message in str(caught.value)


def test_names_as_long_as_file_systems_take_are_restored_and_recorded(batch: Batch) -> None:
    save(batch.folder / "a.png").rename(batch.folder / ("a" * 250 + ".png"))
    assert set(batch.run().values()) == {"done"}
    assert set(batch.run().values()) == {"skipped"}


class Batch:
    """Jobs done the way the flow does them, and how often the model was asked for."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out, self.loads = folder, out, 0

    def load(self) -> ImageDenoiser:
        self.loads += 1
        return ImageDenoiser(network(1), "small")

    def run(self, model: str = "models:/dae/1", *, overwrite: bool = False) -> dict[str, str]:
        jobs = files.plan_files([str(self.folder)], self.out)
        outcomes = resume.denoise_unfinished(jobs, self.out, model, self.load, overwrite=overwrite)
        return {o.input.name: "skipped" if o.skipped else "failed" if o.error else "done" for o in outcomes}


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "deep" / "b.png")
    return Batch(tmp_path / "in", tmp_path / "out")


def test_what_is_done_is_not_done_again(batch: Batch) -> None:
    assert batch.run() == {"a.png": "done", "b.png": "done"}
    assert batch.loads == 2
    assert batch.run() == {"a.png": "skipped", "b.png": "skipped"}
    assert batch.loads == 2
    assert {str(file.relative_to(batch.out)) for file in (batch.out / ".dae").rglob("*.json")} == {
        ".dae/a.png.json",
        ".dae/deep/b.png.json",
    }


def test_a_changed_input_and_a_lost_output_are_done_again(batch: Batch) -> None:
    batch.run()
    save(batch.folder / "a.png", np.full((30, 30), 100, np.uint8))
    (batch.out / "deep" / "b.png").unlink()
    assert batch.run() == {"a.png": "done", "b.png": "done"}
    with Image.open(batch.out / "a.png") as found:
        assert found.size == (30, 30)


def test_a_file_that_is_not_ours_is_left_unless_told(batch: Batch) -> None:
    save(batch.out / "a.png")
    before = (batch.out / "a.png").read_bytes()
    assert batch.run() == {"a.png": "failed", "b.png": "done"}
    save(batch.out / "deep" / "b.png")  # changed by someone else
    assert batch.run() == {"a.png": "failed", "b.png": "failed"}
    assert (batch.out / "a.png").read_bytes() == before
    assert batch.run(overwrite=True) == {"a.png": "done", "b.png": "done"}


def test_what_another_model_made_is_left_unless_told(batch: Batch) -> None:
    batch.run()
    assert batch.run("models:/dae/2") == {"a.png": "skipped", "b.png": "skipped"}
    assert batch.run("models:/dae/2", overwrite=True) == {"a.png": "done", "b.png": "done"}
    assert batch.run("models:/dae/2", overwrite=True) == {"a.png": "skipped", "b.png": "skipped"}


@pytest.mark.parametrize("again", [False, True])
def test_killed_between_record_and_output_it_goes_on(
    batch: Batch, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Whether the output was there before, from an earlier input, or not."""
    if again:
        batch.run()
        save(batch.folder / "a.png", np.full((30, 30), 100, np.uint8))
    replace = os.replace

    def killed(self: Path, target: Path) -> Path:
        if ".png" in (self.suffix, target.suffix):
            raise KeyboardInterrupt
        replace(self, target)
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "hardlink_to", killed)
        with pytest.raises(KeyboardInterrupt):
            batch.run()
    assert batch.run()["a.png"] == "done"
    assert batch.run() == {"a.png": "skipped", "b.png": "skipped"}


def test_a_damaged_record_is_none_and_a_missing_input_is_told(batch: Batch) -> None:
    batch.run()
    (batch.out / ".dae" / "a.png.json").write_text("{")
    assert batch.run() == {"a.png": "failed", "b.png": "skipped"}
    jobs = (FileJob(input=batch.folder / "gone.png", output=batch.out / "gone.png"),)
    (outcome,) = resume.denoise_unfinished(jobs, batch.out, "m", batch.load)
    assert "gone.png: cannot be read" in str(outcome.error)
