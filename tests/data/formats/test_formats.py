"""Files of every format, written by other programs' libraries and read back by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from dae.data import formats
from dae.data.arrays import DataError
from dae.data.formats.base import ImageInfo

RNG = np.random.default_rng(0)


def pixels(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return RNG.random(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def inverted(images: np.ndarray) -> np.ndarray:
    """What stands for a restored image: every pixel changes, and light becomes dark."""
    assert images.ndim == 4
    assert images.shape[3] in (1, 3)
    return 1 - images if images.dtype.kind == "f" else np.invert(images)


def rewritten(source: Path, restore: Callable[[np.ndarray], np.ndarray] = inverted) -> Path:
    target = source.with_name(f"out{source.suffix}")
    formats.rewrite(source, target, restore)
    return target


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_bits_channels_and_alpha(tmp_path: Path, dtype: Any, channels: int) -> None:
    image = pixels(11, 17, channels, dtype=dtype)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(image if channels > 1 else image[..., 0]))
    assert formats.describe(path) == ImageInfo(1, (11, 17, channels), np.dtype(dtype).name)
    out = rewritten(path).read_bytes()
    found = imagecodecs.png_decode(out).reshape(image.shape)
    colours = channels - (channels in (2, 4))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[..., :colours], np.invert(image[..., :colours]))
    np.testing.assert_array_equal(found[..., colours:], image[..., colours:])
    assert out[24:26] == path.read_bytes()[24:26]


@pytest.mark.parametrize("bits", [8, 16])
def test_png_keeps_its_metadata(tmp_path: Path, bits: int) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "someone")
    exif = Image.Exif()
    exif[274] = 6
    mode, dtype = ("L", np.uint8) if bits == 8 else ("I;16", np.uint16)
    made = Image.fromarray(pixels(9, 12, dtype=dtype))
    assert made.mode == mode
    made.save(tmp_path / "a.png", icc_profile=profile, exif=exif, dpi=(300, 300), pnginfo=text)
    with Image.open(rewritten(tmp_path / "a.png")) as out, Image.open(tmp_path / "a.png") as before:
        assert (out.mode, out.size) == (mode, (12, 9))
        for name in ("icc_profile", "exif", "dpi", "Author"):
            assert out.info[name] == before.info[name]
        np.testing.assert_array_equal(np.asarray(out), np.invert(np.asarray(before)))


def test_a_png_palette_becomes_colours_and_few_bits_become_eight(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(8, 9, 3)).quantize(16)
    image.save(tmp_path / "palette.png")
    with Image.open(rewritten(tmp_path / "palette.png")) as out:
        np.testing.assert_array_equal(np.asarray(out), np.invert(np.asarray(image.convert("RGB"))))
    bilevel = Image.fromarray(pixels(8, 9) > 100)
    bilevel.save(tmp_path / "bilevel.png")
    with Image.open(rewritten(tmp_path / "bilevel.png")) as out:
        assert out.mode == "L"
        np.testing.assert_array_equal(np.asarray(out), np.where(np.asarray(bilevel), 0, 255))


def test_an_animated_png_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(8, 9)) for _ in range(2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    for work in (formats.describe, rewritten):
        with pytest.raises(DataError, match=r"a\.png: must be a single image; found an animation"):
            work(tmp_path / "a.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_keeps_size_channels_and_metadata_and_loses_little(tmp_path: Path, channels: int) -> None:
    y, x = np.mgrid[0:40, 0:56]
    image = np.stack([128 + 90 * np.sin(x / (5 + c) + y / 9) for c in range(channels)], axis=2).round().astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    made = Image.fromarray(image if channels == 3 else image[..., 0])
    made.save(tmp_path / "a.jpg", quality=95, exif=exif, dpi=(240, 240), icc_profile=b"profile", comment=b"why")
    with Image.open(rewritten(tmp_path / "a.jpg")) as out, Image.open(tmp_path / "a.jpg") as before:
        assert (out.format, out.mode, out.size) == ("JPEG", before.mode, before.size)
        for name in ("exif", "dpi", "icc_profile", "comment"):
            assert out.info[name] == before.info[name]
        assert np.abs(np.asarray(out, int) - np.invert(np.asarray(before))).mean() < 1.5


def test_jpeg_of_four_inks_is_refused(tmp_path: Path) -> None:
    Image.fromarray(pixels(16, 16, 4), "CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: must be grey or RGB; found mode CMYK"):
        rewritten(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="found mode CMYK"):
        formats.describe(tmp_path / "a.jpg")


TIFFS: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "grey": ((20, 32), np.uint8, {"photometric": "minisblack"}),
    "white is zero": ((20, 32), np.uint16, {"photometric": "miniswhite", "compression": "lzw", "predictor": 2}),
    "rgb": ((20, 32, 3), np.uint16, {"photometric": "rgb", "compression": "zlib", "predictor": 2}),
    "tiles": ((40, 64, 3), np.uint8, {"photometric": "rgb", "tile": (16, 32), "compression": "zstd"}),
    "planes": ((3, 20, 32), np.uint8, {"photometric": "rgb", "planarconfig": "separate"}),
    "alpha": ((20, 32, 4), np.uint16, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "grey and alpha": ((20, 32, 2), np.uint8, {"photometric": "minisblack", "extrasamples": ["assocalpha"]}),
    "alpha in planes": (
        (4, 20, 32),
        np.uint8,
        {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]},
    ),
    "floats": ((20, 32), np.float32, {"photometric": "minisblack", "compression": "zlib", "predictor": 3}),
    "doubles": ((20, 32, 3), np.float64, {"photometric": "rgb"}),
    "big": ((20, 32), np.uint16, {"photometric": "minisblack", "bigtiff": True, "byteorder": ">"}),
}
LAYOUT = ("photometric", "planarconfig", "extrasamples", "compression", "predictor", "dtype", "is_tiled", "shape")


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_keeps_layout_type_compression_and_alpha(tmp_path: Path, name: str) -> None:
    shape, dtype, options = TIFFS[name]
    image = pixels(*shape, dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, metadata=None, **options)
    described = formats.describe(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(rewritten(tmp_path / "a.tif")) as out:
        first, second = before.pages.first, out.pages.first
        for field in LAYOUT:
            assert getattr(first, field) == getattr(second, field), field
        assert (before.is_bigtiff, before.byteorder) == (out.is_bigtiff, out.byteorder)
        assert described.shape == (first.imagelength, first.imagewidth, first.samplesperpixel)
        found = second.asarray()
    alphas = len(options.get("extrasamples", ()))
    if options.get("planarconfig") == "separate":
        image, found = np.moveaxis(image, 0, -1), np.moveaxis(found, 0, -1)
    colours = image.shape[-1] - alphas if image.ndim == 3 else None
    expected = 1 - image if image.dtype.kind == "f" else np.invert(image)
    np.testing.assert_array_equal(found[..., :colours], expected[..., :colours])
    if alphas:
        np.testing.assert_array_equal(found[..., colours:], image[..., colours:])


def test_tiff_where_white_is_zero_reaches_the_model_with_light_as_light(tmp_path: Path) -> None:
    image = np.zeros((16, 16), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
    seen = []
    rewritten(tmp_path / "a.tif", lambda images: seen.append(images.copy()) or images)  # type: ignore[func-returns-value]
    assert (seen[0] == 255).all()


def test_tiff_keeps_every_page_and_its_tags(tmp_path: Path) -> None:
    pages = [pixels(20, 32), pixels(10, 12, 3), pixels(14, 9, dtype=np.uint16)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, page in enumerate(pages):
            writer.write(
                page,
                photometric="rgb" if page.ndim == 3 else "minisblack",
                description=f"page {number}",
                resolution=(300, 150),
                resolutionunit="INCH",
                datetime="2020:01:02 03:04:05",
                software="scanner",
                iccprofile=b"profile",
                subfiletype=2,
                extratags=[(274, 3, 1, 6, True), (315, 2, None, "an artist", True)],
                metadata=None,
            )
    assert str(formats.describe(tmp_path / "a.tif")) == "3 pages of 32x20, grey, uint8"
    with tifffile.TiffFile(rewritten(tmp_path / "a.tif")) as out, tifffile.TiffFile(tmp_path / "a.tif") as before:
        assert len(out.pages) == 3
        for page, first, second in zip(pages, before.pages, out.pages, strict=True):
            np.testing.assert_array_equal(second.asarray(), np.invert(page))
            for code in (254, 270, 274, 282, 283, 296, 305, 306, 315, 34675):
                assert first.aspage().tags.valueof(code) is not None
                assert second.aspage().tags.valueof(code) == first.aspage().tags.valueof(code), code


def test_a_tiff_palette_becomes_rgb(tmp_path: Path) -> None:
    index, table = pixels(12, 13), pixels(3, 256, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=table)
    assert formats.describe(tmp_path / "a.tif").shape == (12, 13, 3)
    found = tifffile.imread(rewritten(tmp_path / "a.tif"))
    np.testing.assert_array_equal(found, np.invert(np.moveaxis(table[:, index] // 256, 0, -1).astype(np.uint8)))


def test_a_tiff_with_jpeg_inside_stays_one(tmp_path: Path) -> None:
    image = np.full((32, 48, 3), (200, 100, 50), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg", metadata=None)
    with tifffile.TiffFile(rewritten(tmp_path / "a.tif")) as out:
        assert out.pages.first.compression == tifffile.COMPRESSION.JPEG
        assert np.abs(out.asarray().astype(int) - np.invert(image)).max() < 4


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (pixels(9, 9, 4), {"photometric": "separated"}, "page 1 must be grey, RGB or a palette; found SEPARATED"),
        (pixels(9, 9, dtype=np.uint32), {}, "unsigned integers of 8 or 16 bits, or floats; found 32 bits as uint32"),
        (pixels(9, 9) > 9, {}, "unsigned integers of 8 or 16 bits, or floats; found 1 bits as bool"),
        (
            pixels(9, 9, 5),
            {"photometric": "rgb", "extrasamples": [0, 0]},
            "must have no samples but colours and one alpha; found 5 samples",
        ),
        (
            pixels(3, 16, 16),
            {"volumetric": True, "photometric": "minisblack", "tile": (16, 16, 16)},
            "must be flat; found a depth of 3",
        ),
        (pixels(3, 16, 16), {"imagej": True, "truncate": True}, "must have a directory for each page"),
        (pixels(16, 16), {"subifds": 1}, "must have no pages below it; found 1"),
    ],
)
def test_tiffs_of_other_kinds_are_refused_with_file_rule_and_what_was_found(
    tmp_path: Path, image: np.ndarray, options: dict[str, Any], message: str
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", imagej=options.pop("imagej", False)) as writer:
        writer.write(image, **options)
        if options.get("subifds"):
            writer.write(image)
    with pytest.raises(DataError) as caught:
        rewritten(tmp_path / "a.tif")
    assert "a.tif: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 3), (5, 9, 12), (2, 9, 12, 1), (2, 9, 12, 4)])
def test_arrays_keep_shape_and_type(tmp_path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    image = pixels(*shape, dtype=np.dtype(dtype).newbyteorder("=")).astype(dtype)
    np.save(tmp_path / "a.npy", image)
    found = np.load(rewritten(tmp_path / "a.npy"))
    assert (found.shape, found.dtype) == (image.shape, image.dtype)
    expected = 1 - image if image.dtype.kind == "f" else np.invert(image)
    if shape[-1] == 4:
        expected[..., 3] = image[..., 3]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(9, np.uint8), "images must have shape (H, W), (H, W, C), (N, H, W) or (N, H, W, C)"),
        (np.zeros((2, 9, 9, 5), np.uint8), "C 1 to 4, and none may be empty; found (2, 9, 9, 5)"),
        (np.zeros((0, 9, 9), np.uint8), "none may be empty; found (0, 9, 9)"),
        (np.zeros((9, 9), np.int32), "pixels must be uint8, uint16, or floats of 16, 32 or 64 bits; found int32"),
        (np.zeros((9, 9), bool), "found bool"),
    ],
)
def test_arrays_of_other_kinds_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError) as caught:
        formats.describe(tmp_path / "a.npy")
    assert str(caught.value).startswith(f"{tmp_path / 'a.npy'}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", formats.FORMATS)
@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"not an image at all, but longer than any header"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for work in (formats.describe, rewritten):
        with pytest.raises(DataError, match=f"a{suffix}: must be"):
            work(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DataError, match=r"must be a readable image|page 1 is cut short"):
        rewritten(path)


def stack(path: Path, **options: Any) -> None:
    tifffile.imwrite(path, pixels(5, 40, 50), photometric="minisblack", **options)


def by_pillow(path: Path) -> None:
    first, *others = (Image.fromarray(pixels(40, 50)) for _ in range(5))
    first.save(path, save_all=True, append_images=others)


CUT: dict[str, tuple[Callable[[Path], None], str]] = {
    "pages of Pillow's": (by_pillow, "must be whole, not damaged or cut short; found <tifffile.TiffPages"),
    "a stack": (stack, "is cut short: the file must have 10256 bytes; found"),
    "a compressed stack": (lambda path: stack(path, compression="zlib"), "page 4 is cut short: the file must have"),
    "a stack of ImageJ's": (lambda path: stack(path, imagej=True), "must be whole, not damaged or cut short"),
    "a stack of one directory": (lambda path: stack(path, imagej=True, truncate=True), "must be whole, not damaged"),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_tiff_of_many_pages_that_was_cut_short_loses_none_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    write, message = CUT[kind]
    write(tmp_path / "a.tif")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) * 4 // 5])
    for work in (formats.describe, rewritten):
        with pytest.raises(DataError) as caught:
            work(tmp_path / "a.tif")
        assert message in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_tiff_with_jpeg_inside_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(200, 300, 3), photometric="rgb", compression="jpeg")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-300])
    for work in (formats.describe, rewritten):
        with pytest.raises(DataError, match=r"page 1 is cut short: the file must have \d+ bytes; found \d+"):
            work(tmp_path / "a.tif")


def test_what_tifffile_logs_elsewhere_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    by_pillow(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:8510])
    with pytest.raises(DataError, match="must be whole"):
        formats.describe(tmp_path / "a.tif")
    assert not caplog.records
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        len(tiff.pages)
    assert "invalid page offset" in caplog.text


def test_a_tiff_whose_notes_do_not_match_its_pages_is_restored(tmp_path: Path) -> None:
    """Such as one taken out of a set of several files, or one whose size another program changed."""
    image = pixels(20, 30)
    ome = '<OME><Image ID="Image:0"><Pixels SizeX="30" SizeY="20" SizeZ="9" SizeC="1" SizeT="1" DimensionOrder="XYZCT" \
Type="uint8"><TiffData IFD="0" PlaneCount="9"><UUID FileName="other.tif">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>'
    for description in ('{"shape": [7, 30]}', ome):
        tifffile.imwrite(tmp_path / "a.tif", image, description=description, metadata=None)
        with tifffile.TiffFile(rewritten(tmp_path / "a.tif")) as out:
            np.testing.assert_array_equal(out.pages.first.asarray(), ~image)


def test_tiff_keeps_text_that_is_not_ascii(tmp_path: Path) -> None:
    tag = (33432, 2, None, "© José".encode(), True)
    tifffile.imwrite(tmp_path / "a.tif", pixels(20, 30), extratags=[tag])
    with tifffile.TiffFile(rewritten(tmp_path / "a.tif")) as out:
        assert out.pages.first.tags.valueof(33432) == "© José"


@pytest.mark.parametrize("inside", ["RGB", "YCBCR"])
def test_a_tiff_with_jpeg_inside_keeps_colour_at_full_resolution(tmp_path: Path, inside: str) -> None:
    y, x = np.mgrid[0:64, 0:96] % 2
    image = np.stack([200 * (x ^ y), 200 * (1 - (x ^ y)), 50 + 0 * x], axis=2).astype(np.uint8)
    options: Any = {"subsampling": (1, 1), "compressionargs": {"level": 95, "outcolorspace": inside}}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg", **options)
    with tifffile.TiffFile(rewritten(tmp_path / "a.tif", lambda images: images)) as out:
        page: Any = out.pages.first
        assert (page.compression.name, page.photometric.name) == ("JPEG", inside)
        assert np.abs(page.asarray().astype(int) - image).mean() < 2


def test_jpeg_in_planes_becomes_deflate(tmp_path: Path) -> None:
    image = np.full((3, 32, 48), 100, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", planarconfig="separate", compression="jpeg")
    with tifffile.TiffFile(rewritten(tmp_path / "a.tif")) as out:
        assert out.pages.first.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        np.testing.assert_array_equal(out.asarray(), ~image)


def test_a_png_of_no_known_colours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(pixels(8, 9)).save(path)
    path.write_bytes(path.read_bytes()[:25] + b"\x05" + path.read_bytes()[26:])
    for work in (formats.describe, rewritten):
        with pytest.raises(DataError, match=r"a\.png: must have a colour type of 0, 2, 3, 4, 6; found 5"):
            work(path)


def test_a_png_of_incompressible_noise_is_written_whole(tmp_path: Path) -> None:
    for shape in ((1, 1), (3, 700), (600, 500, 4)):
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels(*shape, dtype=np.uint16)))
        assert imagecodecs.png_decode(rewritten(tmp_path / "a.png").read_bytes()).shape == shape


def test_of_a_jpeg_file_of_several_pictures_the_first_is_restored(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((16, 16), value, np.uint8)) for value in (50, 200))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    with Image.open(rewritten(tmp_path / "a.jpg")) as out:
        assert abs(int(np.asarray(out)[0, 0]) - 205) < 3


def test_a_jpeg_of_zeros_is_told_without_words_on_code(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"a\.jpg: must be a readable image; found UnidentifiedImageError"):
        formats.describe(tmp_path / "a.jpg")


def test_an_archive_of_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=pixels(9, 9))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    for work in (formats.describe, rewritten):
        with pytest.raises(DataError, match=r"a\.npy: must hold one array; found an archive of arrays"):
            work(tmp_path / "a.npy")


def test_arrays_keep_the_order_of_their_elements(tmp_path: Path) -> None:
    image = pixels(9, 12, 3)
    for array, first in ((image, False), (np.asfortranarray(image), True)):
        np.save(tmp_path / "a.npy", array)
        found = np.load(rewritten(tmp_path / "a.npy"))
        assert found.flags.f_contiguous is first
        np.testing.assert_array_equal(found, ~image)


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"a\.png: must be a file; found a link to gone\.png, which is not there"):
        formats.describe(tmp_path / "a.png")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.gif: must be one of \.png, .*; found \.gif"):
        formats.describe(tmp_path / "a.gif")
