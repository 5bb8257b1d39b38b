"""What a stored model answers, asked as MLflow's server asks it."""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import keras
import mlflow
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from dae.config.schema import MIN_SIDE, ModelConfig, PipelineConfig
from dae.networks import autoencoder, build
from dae.schemas import TrainingDomain
from dae.tracking import log_model, pyfunc
from dae.tracking.client import connect, store_uri
from dae.tracking.pyfunc import ScoringError, Service
from dae.tracking.runs import open_run

RNG = np.random.default_rng(0)
GREY = RNG.normal(0.5, 0.4, (12, 15)).astype(np.float32)
TRAINED_ON = TrainingDomain(image_shape=(12, 12, 1), noise_sigma=(0.1, 0.3), intensity=(0.0, 1.0))


def network(channels: int = 1) -> keras.Model:
    """A network that changes what it is given: as built, the last convolution of each block is zero."""
    model = build.build_network(ModelConfig(width=4, deep_width=4), (12, 12, channels))
    rng = np.random.default_rng(0)
    model.set_weights([weights + rng.normal(0, 0.1, weights.shape) for weights in model.get_weights()])
    return model


GREY_MODEL, RGB_MODEL = network(), network(3)


@pytest.fixture(scope="module")
def grey() -> Service:
    return Service(GREY_MODEL)


@pytest.fixture(scope="module")
def rgb() -> Service:
    return Service(RGB_MODEL)


def file_of(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return base64.b64encode(stream.getvalue()).decode()


def pixels_of(text: str) -> NDArray[Any]:
    return np.asarray(imagecodecs.png_decode(base64.b64decode(text)))


def expected(model: keras.Model, pixels: NDArray[Any]) -> NDArray[Any]:
    """Return what a model makes of an image ``(H, W, C)``, in the image's own depth."""
    top = np.iinfo(pixels.dtype).max
    restored = model.predict_on_batch((pixels / np.float32(top))[None])[0]
    return np.asarray(np.rint(np.clip(restored, 0, 1) * np.float32(top)).astype(pixels.dtype))


@pytest.mark.parametrize("shape", [(12, 15), (12, 15, 1), (2, 12, 15), (2, 12, 15, 1), (1, 9, 8, 1), (300, 8, 8)])
@pytest.mark.parametrize("nested", [False, True])
def test_an_array_comes_back_restored_in_its_own_shape(grey: Service, shape: tuple[int, ...], nested: bool) -> None:
    noisy = RNG.normal(0.5, 0.4, shape).astype(np.float32)
    images = noisy.reshape(-1, *(shape[-3:-1] if shape[-1] == 1 else shape[-2:]), 1)
    restored = grey.predict(noisy.tolist() if nested else noisy)
    assert (restored.shape, restored.dtype) == (shape, np.float32)
    np.testing.assert_allclose(restored.reshape(images.shape), GREY_MODEL.predict_on_batch(images), rtol=0, atol=1e-5)
    assert np.abs(restored - noisy).max() > 0.01


def test_a_grey_model_restores_each_channel_of_a_colour_image_by_itself(grey: Service) -> None:
    noisy = RNG.random((2, 12, 15, 3), np.float32)
    alone = [grey.predict(noisy[..., channel]) for channel in range(3)]
    np.testing.assert_allclose(grey.predict(noisy), np.stack(alone, -1), rtol=0, atol=1e-6)
    np.testing.assert_allclose(grey.predict(noisy[0]), np.stack(alone, -1)[0], rtol=0, atol=1e-6)


def test_a_colour_model_takes_grey_as_three_equal_channels(rgb: Service) -> None:
    noisy = RNG.random((12, 15, 3), np.float32)
    np.testing.assert_allclose(rgb.predict(noisy), RGB_MODEL.predict_on_batch(noisy[None])[0], rtol=0, atol=1e-6)
    threefold = np.repeat(GREY[None, ..., None], 3, axis=3)
    expected = RGB_MODEL.predict_on_batch(threefold.astype(np.float32))[0].mean(axis=-1)
    found = rgb.predict(GREY)
    assert found.shape == GREY.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_file_comes_back_as_png_of_its_own_size_depth_and_channels(
    rgb: Service, grey: Service, dtype: Any, channels: int
) -> None:
    pixels = RNG.integers(0, np.iinfo(dtype).max, (12, 15, channels), dtype, endpoint=True)
    squeezed = pixels[..., 0] if channels == 1 else pixels
    service, model = (grey, GREY_MODEL) if channels == 1 else (rgb, RGB_MODEL)
    answer = pixels_of(service.predict(base64.b64encode(imagecodecs.png_encode(squeezed)).decode()))
    assert answer.dtype == dtype
    np.testing.assert_allclose(answer.reshape(pixels.shape), expected(model, pixels), rtol=0, atol=1)


def test_files_of_several_kinds_and_sizes_come_back_in_their_order(grey: Service) -> None:
    images = [RNG.integers(0, 255, shape, np.uint8) for shape in ((12, 15), (20, 9), (12, 15))]
    deep = RNG.integers(0, 65535, (20, 9), np.uint16)
    texts = [file_of(images[0]), file_of(images[1], "TIFF"), file_of(images[2]), file_of(deep, "TIFF")]
    for answer, pixels in zip(grey.predict(texts), [*images, deep], strict=True):
        np.testing.assert_allclose(pixels_of(answer), expected(GREY_MODEL, pixels[..., None])[..., 0], rtol=0, atol=1)
    (jpeg,) = grey.predict([file_of(images[0], "JPEG")])
    assert pixels_of(jpeg).shape == (12, 15)


def test_base64_in_lines_is_read(grey: Service) -> None:
    text = file_of(RNG.integers(0, 255, (12, 15), np.uint8))
    assert grey.predict("\n".join([text[:40], text[40:], ""])) == grey.predict(text)


WRONG_ARRAYS: list[tuple[Any, str]] = [
    (None, "received null"),
    (0.5, "received a number"),
    ({"noisy": [[0.5]]}, "received an object"),
    ([], r"received \(0,\)"),
    ([[], []], r"received \(2, 0\)"),
    ([0.5] * 64, r"received \(64,\)"),
    ([[[[[0.5]]]]], "at most 4 axes"),
    ([[0.5] * 8] * 7 + [[0.5] * 9], "rows of one length"),
    ([[0.5] * 8] * 7 + [0.5], "rows of one length"),
    ([[None] * 8] * 8, "numbers alone, received null"),
    ([[True] * 8] * 8, "numbers alone, received true or false"),
    ([["a"] * 8] * 8, "numbers alone, received text"),
    ([[0.5] * 8] * 7, "at least 8 pixels high and wide, received 7x8x1"),
    (np.zeros((1, 8, 8, 2)).tolist(), "must have 1 or 3 channels, received 8x8x2"),
    ([[float("nan")] * 8] * 8, "must be finite"),
    ([[float("inf")] * 8] * 8, "must be finite"),
    ([[10**400] * 8] * 8, "must be finite"),
    ([[255] * 8] * 8, "scale of 0 .* received 255: divide by 255"),
    (np.zeros((12, 15), np.uint8), "received uint8: make it floats"),
    (np.zeros((1100, 8, 8), np.float32), r"may hold 1024 images \(DAE_MAX_IMAGES\), received 1100"),
    (np.zeros((2049, 2049), np.float32), r"may have 4194304 pixels \(DAE_MAX_IMAGE_PIXELS\), received 4198401"),
    (np.zeros((3, 2000, 2000), np.float32), r"8388608 pixels together \(DAE_MAX_REQUEST_PIXELS\), received 12000000"),
]


@pytest.mark.parametrize(("value", "rule"), WRONG_ARRAYS, ids=[rule for _, rule in WRONG_ARRAYS])
def test_a_wrong_array_is_refused_with_the_rule_it_broke(grey: Service, value: Any, rule: str) -> None:
    with pytest.raises(ScoringError, match=rule) as refused:
        grey.predict(value)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


NOISE = RNG.integers(0, 255, (60, 60), np.uint8)
WRONG_FILES: list[tuple[Any, str]] = [
    (["", ""], "image 0: must be a PNG, JPEG or TIFF file"),
    ("no base64!", "image 0: must be an image file in base64"),
    (base64.b64encode(b"no image").decode(), "must be a PNG, JPEG or TIFF file"),
    (file_of(NOISE, "GIF"), "must be a PNG, JPEG or TIFF file"),
    (file_of(NOISE)[:1000], "image 0: is damaged"),
    ([file_of(NOISE), file_of(NOISE)[:1000]], "image 1: is damaged"),
    (file_of(np.zeros((9, 9, 4), np.uint8)), "without transparency or palette, received mode RGBA"),
    (file_of(NOISE, transparency=0), "without transparency"),
    (file_of(np.zeros((9, 9), bool)), "received mode 1"),
    (file_of(np.zeros((9, 7), np.uint8)), "at least 8 pixels high and wide, received 9x7x1"),
    ([file_of(NOISE), 1], "must hold nothing else, received a number"),
    ([None, file_of(NOISE)], "must hold nothing else, received null"),
    ([file_of(NOISE)] * 1025, r"may hold 1024 images \(DAE_MAX_IMAGES\), received 1025"),
    ([file_of(np.zeros((2000, 2000), np.uint8))] * 3, r"pixels together \(DAE_MAX_REQUEST_PIXELS\)"),
    (file_of(NOISE, "TIFF", save_all=True, append_images=[Image.fromarray(NOISE)]), "received more than one page"),
]


@pytest.mark.parametrize(("value", "rule"), WRONG_FILES, ids=[rule for _, rule in WRONG_FILES])
def test_a_wrong_file_is_refused_with_the_rule_it_broke(grey: Service, value: Any, rule: str) -> None:
    with pytest.raises(ScoringError, match=rule):
        grey.predict(value)


def jpeg_of_scans(repeated: int) -> str:
    """Return a progressive JPEG with its last scan written so many times more."""
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "JPEG", progressive=True)
    file = stream.getvalue()
    scan = file[file.rindex(b"\xff\xda") : -2]
    return base64.b64encode(file[:-2] + scan * repeated + file[-2:]).decode()


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(grey: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, few, many = (jpeg_of_scans(repeated) for repeated in (0, 20, 5000))
    assert pixels_of(grey.predict(few)).shape == pixels_of(grey.predict(plain)).shape == NOISE.shape
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ScoringError, match=r"image 1: must be a JPEG file of at most 100 scans, received \d{4}$"):
        grey.predict([plain, many])


def test_the_pages_of_a_tiff_file_are_not_counted(grey: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    several = file_of(NOISE, "TIFF", save_all=True, append_images=[Image.fromarray(NOISE)] * 3)
    monkeypatch.setattr(TiffImageFile, "n_frames", property(lambda _: pytest.fail("they were counted")))
    with pytest.raises(ScoringError, match="received more than one page"):
        grey.predict(several)


def test_a_tiff_file_that_pillow_would_change_is_refused(grey: Service) -> None:
    assert pixels_of(grey.predict(file_of(NOISE, "TIFF", tiffinfo={274: 1}))).shape == NOISE.shape
    with pytest.raises(ScoringError, match="stored upright, of grey or RGB alone, received an orientation of its own"):
        grey.predict(file_of(NOISE[:20], "TIFF", tiffinfo={274: 6}))
    stream = io.BytesIO()
    pixels = RNG.integers(0, 255, (12, 15, 4), np.uint8)
    tifffile.imwrite(stream, pixels, photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(ScoringError, match="received extra samples"):
        grey.predict(base64.b64encode(stream.getvalue()).decode())


def test_a_loaded_model_keeps_pillows_warnings_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: GREY_MODEL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pyfunc._load_pyfunc("nowhere")
        for module in ("PIL.TiffImagePlugin", "elsewhere"):
            warnings.warn_explicit(module, UserWarning, "file", 1, module=module)
    assert [str(each.message) for each in caught] == ["elsewhere"]


@pytest.mark.parametrize("side", [3000, 13_500])
def test_a_file_with_too_many_pixels_is_refused_by_its_header(
    grey: Service, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = file_of(np.zeros((side, side), np.uint8))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ScoringError, match="pixels"):
        grey.predict(bomb)


def test_a_model_of_one_size_says_which() -> None:
    with pytest.raises(ScoringError, match="takes images of 28x28, received 12x15x1"):
        Service(autoencoder.build_autoencoder()).predict(GREY)


def test_the_limits_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAE_MAX_IMAGES", "2")
    service = Service(GREY_MODEL)
    assert service.predict([GREY.tolist()] * 2).shape == (2, 12, 15)
    with pytest.raises(ScoringError, match=r"may hold 2 images \(DAE_MAX_IMAGES\), received 3"):
        service.predict([GREY.tolist()] * 3)
    monkeypatch.setenv("DAE_MAX_IMAGES", "many")
    with pytest.raises(ValueError, match="DAE_MAX_IMAGES must be a whole number from 1 up, received 'many'"):
        Service(GREY_MODEL)


def test_a_model_that_fails_is_the_servers_error() -> None:
    image = keras.Input((None, None, 1))
    service = Service(keras.Model(image, keras.ops.log(image - 1e9)))
    with pytest.raises(ScoringError, match="answer is not finite") as failed:
        service.predict(GREY)
    assert failed.value.error_code == "INTERNAL_ERROR"


def test_a_refusal_keeps_its_message() -> None:
    refused = ScoringError("too large")
    refused.message = f"Failed to predict data '{'0' * 1000}'"
    assert refused.message == "too large"
    assert refused.serialize_as_json() == '{"error_code": "INVALID_PARAMETER_VALUE", "message": "too large"}'


def test_the_smallest_image_is_that_of_the_configuration() -> None:
    assert pyfunc.MIN_SIDE == MIN_SIDE


def test_what_travels_with_a_model_imports_nothing_of_this_package() -> None:
    tree = ast.parse(Path(pyfunc.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {
        "imagecodecs",
        "keras",
        "mlflow",
        "numpy",
        "PIL",
    }


ELSEWHERE = """
import sys
import mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
numpy.save("restored.npy", model.predict(numpy.load("noisy.npy")))
assert model.predict(model.input_example).shape == (2, 12, 12, 1)
import keras
print(keras.config.backend(), "dae" in sys.modules)
"""


def elsewhere(folder: Path, noisy: NDArray[Any], backend: str) -> NDArray[Any]:
    """Return what the stored model makes of images in a process that knows nothing of this package."""
    np.save(folder / "noisy.npy", noisy)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"KERAS_BACKEND": backend, "MLFLOW_TRACKING_URI": store_uri()}
    command = [sys.executable, "-c", ELSEWHERE, "models:/dae@champion"]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [backend, "False"]
    return np.asarray(np.load(folder / "restored.npy"))


def logged() -> str:
    """Log and register the network as champion; return its URI."""
    with open_run(PipelineConfig(), "none") as run_id:
        _, uri = log_model.log_model(run_id, GREY_MODEL, RNG.random((2, 12, 12, 1), np.float32), "dae", TRAINED_ON)
    client = connect()
    client.create_registered_model("dae")
    client.create_model_version("dae", uri, run_id)
    client.set_registered_model_alias("dae", "champion", "1")
    return uri


@pytest.mark.usefixtures("mlflow_store")
def test_a_logged_model_answers_wherever_mlflow_loads_it_and_says_what_it_was_trained_on() -> None:
    uri = logged()
    loaded = mlflow.pyfunc.load_model("models:/dae@champion")
    noisy = RNG.random((2, 12, 15, 1), np.float32)
    np.testing.assert_allclose(loaded.predict(noisy), GREY_MODEL.predict_on_batch(noisy), rtol=0, atol=1e-5)
    assert loaded.predict(file_of(NOISE)) == Service(GREY_MODEL).predict(file_of(NOISE))
    assert loaded.predict(loaded.input_example).shape == loaded.input_example.shape == (2, 12, 12, 1)
    assert TrainingDomain.model_validate(loaded.metadata.metadata["trained_on"]) == TRAINED_ON
    stored = mlflow.keras.load_model(uri)
    np.testing.assert_allclose(stored.predict_on_batch(noisy), GREY_MODEL.predict_on_batch(noisy), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("mlflow_store")
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_logged_model_answers_without_this_package_on_either_backend(tmp_path: Path, backend: str) -> None:
    if importlib.util.find_spec("jax") is None and backend == "jax":
        pytest.skip("the extra jax is not installed")
    logged()
    noisy = RNG.random((2, 12, 15, 1), np.float32)
    restored = elsewhere(tmp_path, noisy, backend)
    np.testing.assert_allclose(restored, GREY_MODEL.predict_on_batch(noisy), rtol=0, atol=1e-5)
