"""``dae denoise``, from the command line to the files."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import imagecodecs
import keras
import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner, Result

from dae.cli import app
from dae.config.schema import ModelConfig, PipelineConfig
from dae.networks import build
from dae.schemas import TrainingDomain
from dae.tracking import log_model
from dae.tracking.client import connect
from dae.tracking.runs import open_run


def network(channels: int = 1) -> keras.Model:
    keras.utils.set_random_seed(0)
    model = build.build_network(ModelConfig(width=8, deep_width=8), (28, 28, channels))
    rng = np.random.default_rng(0)
    model.set_weights([weights + rng.normal(0, 0.05, weights.shape) for weights in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    network().save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a folder of one image of each format."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(colour).save("in/a.png")
    Image.fromarray(colour).save("in/b.jpg")
    tifffile.imwrite("in/deep/c.tif", rng.integers(0, 65536, (3, 40, 50), np.uint16), photometric="minisblack")
    np.save("in/deep/d.npy", rng.random((2, 20, 30), np.float32))
    Path("in/e.png").write_bytes(imagecodecs.png_encode(rng.integers(0, 65536, (30, 30, 4), np.uint16)))
    return tmp_path


FILES = ["a.png", "b.jpg", "deep/c.tif", "deep/d.npy", "e.png"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["denoise", *arguments])


def files(below: Path) -> list[str]:
    return sorted(str(file.relative_to(below)) for file in below.rglob("*") if file.is_file())


def test_a_folder_of_every_format_is_restored(folder: Path, saved: str) -> None:
    result = run("in", "-o", "out", "--model", saved)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"5 files restored with {saved} to out.\n"
    assert files(folder / "out") == FILES
    assert tifffile.imread("out/deep/c.tif").shape == (3, 40, 50)
    assert np.load("out/deep/d.npy").dtype == np.float32
    before, after = (imagecodecs.png_decode(Path(name, "e.png").read_bytes()) for name in ("in", "out"))
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    np.testing.assert_array_equal(after[..., 3], before[..., 3])
    assert (after[..., :3] != before[..., :3]).mean() > 0.9


def test_a_dry_run_lists_and_writes_nothing(folder: Path, saved: str) -> None:
    Path("out/deep").mkdir(parents=True)
    Path("out/deep/c.tif").write_bytes(b"mine")
    result = run("in", "-o", "out", "--model", saved, "--dry-run")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "in/a.png -> out/a.png: 50x40, RGB, uint8",
        "in/b.jpg -> out/b.jpg: 50x40, RGB, uint8",
        "in/deep/c.tif -> out/deep/c.tif: 3 pages of 50x40, grey, uint16 (exists: would be skipped)",
        "in/deep/d.npy -> out/deep/d.npy: 2 pages of 30x20, grey, float32",
        "in/e.png -> out/e.png: 30x30, RGB and alpha, uint16",
        f"4 files would be restored with {saved}, 1 would not be done.",
    ]
    assert files(folder / "out") == ["deep/c.tif"]
    told = run("in", "-o", "out", "--model", saved, "--dry-run", "--overwrite")
    assert told.exit_code == 0
    assert "(exists: would be replaced)" in told.stdout
    Path("in/bad.png").write_bytes(b"bad")
    bad = run("in", "-o", "out", "--model", saved, "--dry-run", "--overwrite")
    assert bad.exit_code == 1
    assert "error: in/bad.png: must be a PNG file; found one that begins with b'bad'" in bad.stderr


def test_one_bad_file_is_told_and_the_rest_is_done(folder: Path, saved: str) -> None:
    Path("in/bad.png").write_bytes(Path("in/a.png").read_bytes()[:500])
    np.save("in/bad.npy", np.zeros((9, 9), np.int64))
    result = run("in", "-o", "out", "--model", saved)
    assert result.exit_code == 1
    assert files(folder / "out") == FILES
    assert "error: in/bad.png: must be a readable image; found" in result.stderr
    assert (
        "error: in/bad.npy: pixels must be uint8, uint16, or floats of 16, 32 or 64 bits; found int64" in result.stderr
    )
    assert result.stdout == f"5 files restored with {saved} to out, 2 not done.\n"


def test_nothing_is_replaced_unless_told(folder: Path, saved: str) -> None:
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"mine")
    result = run("in/*.png", "-o", "out", "--model", saved)
    assert result.exit_code == 1
    assert "error: out/a.png: must not be there yet, unless it may be overwritten" in result.stderr
    assert Path("out/a.png").read_bytes() == b"mine"
    assert files(folder / "out") == ["a.png", "e.png"]
    assert run("in/*.png", "-o", "out", "--model", saved, "--overwrite").exit_code == 0
    assert Path("out/a.png").read_bytes() != b"mine"


def test_a_single_file_goes_to_a_file(folder: Path, saved: str) -> None:
    assert run("in/b.jpg", "-o", "new/x.jpeg", "--model", saved, "--tile", "64").exit_code == 0
    assert files(folder / "new") == ["x.jpeg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "-o", "out"), "nowhere: must be a file, a folder or a pattern"),
        (("in/*.gif", "-o", "out"), "in/*.gif: must lead to image files"),
        (("in", "-o", "in"), "in/a.png: must not be an input"),
        (("in", "-o", "x.png"), "must be a folder unless the input is a single file"),
        (("in/deep", "more", "-o", "out"), "out/c.tif: must come of one input; found in/deep/c.tif and more/c.tif"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_usage_is_told_before_any_work(arguments: tuple[str, ...], message: str) -> None:
    Path("more").mkdir()
    Path("more/c.tif").write_bytes(b"")
    result = run(*arguments, "--model", "none.keras")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("none.keras", "ModelError: none.keras: must be a model saved by Keras"),
        ("models:/dae@champion", "ModelError: no model models:/dae@champion at sqlite:"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.usefixtures("folder", "mlflow_store")
def test_a_model_that_is_not_there_is_told_before_any_file(model: str, message: str, more: tuple[str, ...]) -> None:
    Path("in/bad.png").write_bytes(b"bad")
    result = run("in", "-o", "out", "--model", model, *more)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "bad.png" not in result.output
    assert not Path("out").exists()


@pytest.fixture
def champion(folder: Path, mlflow_store: None) -> None:
    """A champion of grey images of 28x28 with noise of 0.05 to 0.3."""
    trained = TrainingDomain(image_shape=(28, 28, 1), noise_sigma=(0.05, 0.3), intensity=(0.0, 1.0))
    with open_run(PipelineConfig(), "none") as run_id:
        _, uri = log_model.log_model(run_id, network(), np.zeros((1, 28, 28, 1), np.float32), "dae", trained)
    client = connect()
    client.create_registered_model("dae")
    client.create_model_version("dae", uri, run_id)
    client.set_registered_model_alias("dae", "champion", "1")


@pytest.mark.usefixtures("champion")
def test_the_champion_says_once_what_it_was_not_made_for_and_leaves_what_it_would_harm() -> None:
    rng = np.random.default_rng(0)
    usual = np.clip(rng.normal(0.5, 0.1, (64, 64)), 0, 1)
    images: dict[str, np.ndarray] = {
        "usual": np.rint(255 * usual).astype(np.uint8),
        "smooth": np.tile(np.arange(64, 128, dtype=np.uint8), (64, 1)),
        "fourteen": np.rint(16383 * usual).astype(np.uint16),
        "again": np.rint(16383 * usual).astype(np.uint16),
        "twelve": np.rint(4095 * usual).astype(np.uint16),
    }
    for name, pixels in images.items():
        Path(f"{name}.png").write_bytes(imagecodecs.png_encode(pixels))
    result = run("usual.png", "smooth.png", "fourteen.png", "again.png", "twelve.png", "-o", "out")
    assert result.exit_code == 1
    smooth, fourteen, twelve, total = result.stderr.splitlines()
    assert smooth.startswith("error: smooth.png: not restored, since its noise has a standard deviation of about 0.00")
    assert smooth.endswith("; --anyway restores it all the same")
    assert fourteen.startswith("warning: fourteen.png: its intensities end at 0.2")  # and nothing of again.png
    assert twelve.startswith("error: twelve.png: not restored, since its intensities end at 0.0")
    assert total == "warning: 4 of 5 files are unlike what the model was made for"
    assert result.stdout == "3 files restored with models:/dae/1 to out, 2 not done.\n"
    assert sorted(path.name for path in Path("out").iterdir()) == ["again.png", "fourteen.png", "usual.png"]


@pytest.mark.usefixtures("champion")
def test_every_page_of_a_file_is_looked_at() -> None:
    rng = np.random.default_rng(0)
    faint = np.rint(16383 * np.clip(rng.normal(0.5, 0.1, (64, 64)), 0, 1)).astype(np.uint16)  # a warning
    smooth = np.tile(np.arange(64, 128, dtype=np.uint16) * 257, (64, 1))
    tifffile.imwrite("pages.tif", np.stack([faint, smooth]), photometric="minisblack")
    refused = run("pages.tif", "-o", "out.tif")
    assert refused.exit_code == 1
    assert "not restored, since its noise has a standard deviation of about 0.00" in refused.stderr
    assert not Path("out.tif").exists()
    assert run("pages.tif", "-o", "out.tif", "--anyway").exit_code == 0


@pytest.mark.usefixtures("champion")
def test_what_was_said_of_a_file_that_was_left_is_said_of_one_that_is_restored_too() -> None:
    rng = np.random.default_rng(0)
    for name, sigma in {"weak": 0.005, "strong": 0.5, "strongish": 0.4}.items():
        np.save(f"{name}.npy", (0.5 + rng.normal(0, sigma, (280, 280))).astype(np.float32))
    result = run("weak.npy", "strong.npy", "strongish.npy", "-o", "out")
    weak, strong, strongish, _ = result.stderr.splitlines()
    assert "weak.npy: not restored, since its noise has a standard deviation of about 0.00" in weak
    assert "strong.npy: not restored, since its noise has a standard deviation of about 0.4" in strong
    assert strongish.startswith("warning: strongish.npy: its noise has a standard deviation of about 0.")


@pytest.mark.usefixtures("champion")
def test_what_a_model_would_harm_is_named_in_short_after_the_first_and_restored_on_request() -> None:
    Image.fromarray(np.tile(np.arange(64, 128, dtype=np.uint8), (64, 1))).save("smooth.png")
    shutil.copy("smooth.png", "again.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save("colour.png")
    refused = run("smooth.png", "again.png", "colour.png", "-o", "out")
    assert refused.exit_code == 1
    _, again, colour, total = refused.stderr.splitlines()
    assert again == "error: again.png: not restored, for the same reason as one above"
    assert colour.startswith(
        "error: colour.png: not restored, since it is in colour, the model was trained on images in grey"
    )
    assert total == "warning: 3 of 3 files are unlike what the model was made for"
    assert not any(Path("out").glob("*.png"))
    done = run("smooth.png", "again.png", "colour.png", "-o", "out", "--anyway")
    assert done.exit_code == 0
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["warning"] * 3
    assert done.stdout == "3 files restored with models:/dae/1 to out.\n"


def test_strength_blends_the_output_with_the_input(folder: Path, saved: str) -> None:
    names = ("a.png", "deep/c.tif", "deep/d.npy")
    for strength, name in (("1", "whole"), ("0.7", "part"), ("0", "none")):
        assert run("in", "-o", name, "--model", saved, "--strength", strength).exit_code == 0
    for name in names:
        given, whole, part, none = (_pixels(Path(place, name)) for place in ("in", "whole", "part", "none"))
        np.testing.assert_array_equal(none, given)
        step = 1 if given.dtype.kind == "u" else 1e-6
        blend = given + 0.7 * (whole.astype(np.float64) - given)
        np.testing.assert_allclose(part, blend, atol=step)
        assert not np.array_equal(whole, given)
    assert run("in", "-o", "x", "--model", saved, "--strength", "1.1").exit_code == 2


def _pixels(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    return np.asarray(tifffile.imread(path) if path.suffix == ".tif" else Image.open(path))


def test_a_dry_run_tells_of_every_odd_file_and_place(folder: Path, saved: str) -> None:
    data = bytearray(Path("in/a.png").read_bytes())
    data[25] = 5
    Path("in/odd.png").write_bytes(data)
    np.savez("in/archive.npz", a=np.zeros((9, 9)))
    Path("in/archive.npz").rename("in/archive.npy")
    Path("in/lost.tif").symlink_to("gone")
    Path("out/a.png").mkdir(parents=True)
    Path("out/deep").write_text("a file")
    result = run("in", "-o", "out", "--model", saved, "--dry-run", "--overwrite")
    assert result.exit_code == 1
    for line in (
        "in/odd.png: must have a colour type of 0, 2, 3, 4, 6; found 5",
        "in/archive.npy: must hold one array; found an archive of arrays, .npz",
        "in/lost.tif: must be a file; found a link to gone, which is not there",
        "out/a.png: must be a file; found a folder",
        "out/deep/c.tif: must lie in a folder; found out/deep, which is none",
    ):
        assert f"error: {line}\n" in result.stderr
    assert result.stdout.endswith(f"2 files would be restored with {saved}, 6 would not be done.\n")
    real = run("in", "-o", "out", "--model", saved, "--overwrite")
    assert sorted(real.stderr.splitlines()) == sorted(result.stderr.splitlines())
    assert real.stdout == f"2 files restored with {saved} to out, 6 not done.\n"


@pytest.mark.usefixtures("folder")
def test_a_file_that_is_no_model_is_told_by_a_dry_run_too() -> None:
    Path("bad.keras").write_bytes(b"garbage")
    for more in ((), ("--dry-run",)):
        result = run("in", "-o", "out", "--model", "bad.keras", *more)
        assert result.exit_code == 1
        assert "bad.keras: must be a model saved by Keras; found a file that is none" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_half_written_file(folder: Path, saved: str, number: signal.Signals) -> None:
    rng = np.random.default_rng(0)
    for place in range(4):
        np.save(f"in/big{place}.npy", rng.random((6000, 5000), np.float32))
    command = [sys.executable, "-m", "dae.cli", "denoise", "in", "-o", "out", "--model", saved]
    process = subprocess.Popen(command, env=os.environ, stderr=subprocess.PIPE, text=True)
    out, stderr = folder / "out", None
    while not list(out.glob(".*")):  # it is at a file
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"it ended before that with {process.wait(timeout=0.05)}")
    for _ in range(3):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, stderr = process.communicate(timeout=20)
            break  # else Python lost the interruption, as it does in a destructor: a person presses again
    assert stderr is not None
    assert process.returncode == 128 + number
    assert stderr.count("Traceback") == stderr.count("Exception ignored in")  # by which Python tells of a lost one
    assert not [name for name in files(out) if Path(name).name.startswith(".")]
    for name in files(out):
        assert (folder / "in" / name).stat().st_size == (out / name).stat().st_size or not name.endswith(".npy")


@pytest.mark.slow
def test_a_large_image_needs_little_memory(folder: Path, saved: str) -> None:
    """50 megapixels in colour: the whole process stays under 2 GiB."""
    if sys.platform != "linux":
        pytest.skip("the peak is read from /proc")
    rows = np.random.default_rng(0).integers(0, 256, (64, 8165, 3), np.uint8)
    Path("large.png").write_bytes(imagecodecs.png_encode(np.tile(rows, (96, 1, 1))[:6124], 1))
    program = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from dae.cli import app\n"
        "code = app(sys.argv[1:], standalone_mode=False)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    network(3).save("rgb.keras")
    command = [sys.executable, "-c", program, "denoise", "large.png", "-o", "out", "--model", "rgb.keras"]
    done = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True)
    summary, peak = done.stdout.splitlines()
    assert summary == "1 file restored with rgb.keras to out."
    assert int(peak) * 1024 < 2 * 2**30
