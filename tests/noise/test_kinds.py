"""The laws of noise: what is measured is the distribution, never the shape alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from scipy import stats

from dae.data import sources
from dae.noise.kinds import Gaussian, NoiseKind, Poisson, SaltAndPepper, Speckle, corrupt, noise_shares, to_8bit
from dae.noise.nonzero_pixels import NonzeroPixels
from dae.noise.strength import AmountRange, StrengthRange
from dae.schemas import Images

FOUR: tuple[NoiseKind, ...] = (Gaussian(), SaltAndPepper(), Poisson(), Speckle())
EACH = pytest.mark.parametrize("kind", FOUR, ids=lambda kind: kind.kind)
CHANNELS = pytest.mark.parametrize("channels", [1, 3])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(value: float, count: int = 8, side: int = 64, channels: int = 1) -> Images:
    return np.full((count, side, side, channels), value, np.float32)


def textured(count: int, side: int = 12, channels: int = 1, seed: int = 5) -> Images:
    return generator(seed).integers(0, 256, (count, side, side, channels)).astype(np.float32) / np.float32(255)


def tiled(values: Sequence[float], count: int, side: int) -> Images:
    """Return images filled with the values in turn."""
    return np.resize(np.array(values, np.float32), count * side * side).reshape(count, side, side, 1)


def skewness(values: NDArray[np.floating]) -> float:
    centred = values.astype(np.float64).ravel() - values.mean(dtype=np.float64)
    return float(np.mean(centred**3) / np.mean(centred**2) ** 1.5)


# Gaussian


@CHANNELS
@pytest.mark.parametrize("variance", [0.01, 0.1, 1.0])
def test_gaussian_noise_is_centred_with_the_configured_variance_and_no_skew(variance: float, channels: int) -> None:
    x = flat(0.5, count=16, channels=channels)
    noise = Gaussian(variance=variance)(x, generator()) - x
    sigma = math.sqrt(variance)
    assert abs(noise.mean()) < 5 * sigma / math.sqrt(noise.size)
    assert noise.var() == pytest.approx(variance, rel=0.03)
    assert abs(skewness(noise)) < 0.05
    assert np.mean(np.abs(noise) < sigma) == pytest.approx(0.6827, abs=0.01)


def test_gaussian_noise_does_not_depend_on_the_intensity() -> None:
    dark, bright = (Gaussian()(flat(value), generator()) - flat(value) for value in (0.0, 1.0))
    np.testing.assert_allclose(dark, bright, atol=1e-6)


@pytest.mark.parametrize("kind", [Gaussian(), Poisson(peak=50), Speckle()], ids=lambda kind: kind.kind)
def test_pixels_and_channels_get_independent_noise(kind: NoiseKind) -> None:
    noise = (kind(flat(0.5, channels=3), generator()) - 0.5).astype(np.float64)
    pairs = [(noise[..., 0], noise[..., 1]), (noise[..., 1], noise[..., 2]), (noise[:, :, 1:], noise[:, :, :-1])]
    for one, other in [*pairs, (noise[1:], noise[:-1])]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


# Salt and pepper


def test_the_articles_counts_are_71_salt_and_8_pepper_of_784() -> None:
    assert [drawn.tolist() for drawn in SaltAndPepper().counts(28 * 28, np.array([0.1]))] == [[71], [8]]


@given(st.floats(0.01, 1), st.floats(0, 1), st.integers(64, 4096))
def test_the_counts_are_the_shares_rounded_up(amount: float, salt_share: float, pixels: int) -> None:
    amounts = np.array([amount, amount / 2])
    salt, pepper = SaltAndPepper(salt_share=salt_share).counts(pixels, amounts)
    for count, exact in ((salt, amounts * pixels * salt_share), (pepper, amounts * pixels * (1 - salt_share))):
        assert np.all((count - exact > -1e-9) & (count - exact < 1 + 1e-9))


@pytest.mark.parametrize("salt_share", [0.0, 0.3, 0.9, 1.0])
def test_the_share_of_hit_pixels_is_that_of_positions_drawn_with_replacement(salt_share: float) -> None:
    kind = SaltAndPepper(amount=0.3, salt_share=salt_share)
    y = kind(flat(0.5, count=300, side=20), generator())
    salt, pepper = (int(drawn) for (drawn,) in kind.counts(400, np.array([0.3])))
    left_by_salt, left_by_pepper = ((1 - 1 / 400) ** drawn for drawn in (salt, pepper))
    assert np.mean(y == 0) == pytest.approx(1 - left_by_pepper, abs=0.004)
    assert np.mean(y == 1) == pytest.approx((1 - left_by_salt) * left_by_pepper, abs=0.004)  # pepper falls on salt
    assert np.mean(y == 0.5) == pytest.approx(left_by_salt * left_by_pepper, abs=0.004)


def test_no_image_is_hit_more_often_than_positions_are_drawn() -> None:
    y = SaltAndPepper()(flat(0.5, count=200, side=28), generator())
    salted, peppered = np.sum(y == 1, axis=(1, 2, 3)), np.sum(y == 0, axis=(1, 2, 3))
    assert salted.max() <= 71
    assert peppered.max() <= 8
    assert salted.min() >= 50


def test_every_pixel_is_equally_likely_hit_the_last_row_and_column_too() -> None:
    hit = np.mean(SaltAndPepper(amount=0.5, salt_share=1)(flat(0, count=4000, side=8), generator()), axis=(0, 3))
    expected = 1 - (1 - 1 / 64) ** 32
    assert np.abs(hit - expected).max() < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_a_colour_pixel_is_hit_in_all_its_channels_and_the_others_stay_as_they_are() -> None:
    x = textured(50, channels=3) * np.float32(0.8) + np.float32(0.1)
    y = SaltAndPepper(amount=0.4, salt_share=0.5)(x, generator())
    changed = np.any(y != x, axis=-1)
    assert np.all((y[changed] == 1).all(axis=-1) | (y[changed] == 0).all(axis=-1))
    np.testing.assert_array_equal(y[~changed], x[~changed])
    assert 0 < changed.mean() < 0.4


# Poisson


@CHANNELS
@pytest.mark.parametrize("peak", [4.0, 50.0, 1000.0])
@pytest.mark.parametrize("x", [0.1, 0.5, 1.0])
def test_poisson_noise_has_mean_x_variance_x_over_v_and_skewness_one_over_root_xv(
    x: float, peak: float, channels: int
) -> None:
    y = Poisson(peak=peak)(flat(x, count=16, channels=channels), generator())
    assert y.mean() == pytest.approx(x, abs=5 * math.sqrt(x / peak / y.size))
    assert y.var() == pytest.approx(x / peak, rel=0.04)
    assert skewness(y) == pytest.approx(1 / math.sqrt(x * peak), abs=0.12)


def test_poisson_values_are_whole_photons() -> None:
    photons = Poisson(peak=32)(textured(4), generator()) * 32
    np.testing.assert_array_equal(photons, np.rint(photons))


@EACH
def test_black_stays_black_under_noise_that_scales_with_the_intensity(kind: NoiseKind) -> None:
    y = kind(flat(0), generator())
    assert bool(np.all(y == 0)) == (kind.kind in ("poisson", "speckle"))


@pytest.mark.parametrize(
    ("levels", "peak"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (128, 128), (129, 256), (256, 256)]
)
@pytest.mark.parametrize("scale", [255, 300], ids=["8 bits", "floats"])
@pytest.mark.parametrize("darkest", [0, 5], ids=["with black", "without"])
def test_the_peak_from_grey_levels_is_the_power_of_two_at_or_above_their_number(
    levels: int, peak: int, scale: int, darkest: int
) -> None:
    first = darkest if darkest + levels <= 256 else 0
    image = tiled([level / scale for level in range(first, first + levels)], 1, 16)
    assert NonzeroPixels.of(image).grey_level_peaks().tolist() == [peak]


def test_each_image_has_its_own_peak_whatever_the_others_in_the_batch() -> None:
    two, many = tiled([0, 1], 1, 16), textured(1, side=16)
    assert NonzeroPixels.of(np.concatenate([two, many, two])).grey_level_peaks().tolist() == [2, 256, 2]


def test_poisson_noise_of_an_image_has_the_same_law_alone_and_among_richer_images() -> None:
    poor = tiled([0, 0.5, 1], 200, 12)  # three levels, so v = 4
    alone = Poisson()(poor, generator(1))
    among = Poisson()(np.concatenate([poor, textured(200)]), generator(2))[:200]
    for y in (alone, among):
        assert y[poor == 0.5].var() == pytest.approx(0.5 / 4, rel=0.06)
        assert y[poor == 1].var() == pytest.approx(1 / 4, rel=0.06)


# Speckle


@CHANNELS
@pytest.mark.parametrize("variance", [0.04, 1.0])
@pytest.mark.parametrize("x", [0.2, 1.0])
def test_speckle_has_mean_x_variance_x_squared_and_no_skew(x: float, variance: float, channels: int) -> None:
    y = Speckle(variance=variance)(flat(x, count=16, channels=channels), generator())
    assert y.mean() == pytest.approx(x, abs=5 * x * math.sqrt(variance / y.size))
    assert y.var() == pytest.approx(variance * x**2, rel=0.03)
    assert abs(skewness(y)) < 0.05


# A range of strengths: each image has its own, log-uniform


RANGED: tuple[NoiseKind, ...] = (
    Gaussian(variance=StrengthRange(low=0.01, high=0.2)),
    SaltAndPepper(amount=AmountRange(low=0.02, high=0.4), salt_share=0.7),
    Poisson(peak=StrengthRange(low=4, high=256)),
    Speckle(variance=StrengthRange(low=0.1, high=2)),
)
EACH_RANGED = pytest.mark.parametrize("kind", RANGED, ids=lambda kind: kind.kind)


def log_uniform_mean(drawn: StrengthRange) -> float:
    return (drawn.high - drawn.low) / math.log(drawn.high / drawn.low)


def estimated(kind: NoiseKind, x: float, y: Images) -> NDArray[np.float64]:
    """Return each flat image's strength as its noise shows it."""
    variances = np.var(y.astype(np.float64), axis=(1, 2, 3))
    if isinstance(kind, SaltAndPepper):
        hit = np.mean(y != np.float32(x), axis=(1, 2, 3))
        return np.asarray(-np.log(1 - hit))  # positions are drawn with replacement
    return np.asarray({"gaussian": variances, "poisson": x / variances, "speckle": variances / x**2}[kind.kind])


def setting(kind: NoiseKind) -> StrengthRange:
    drawn = getattr(kind, kind.strength)
    assert isinstance(drawn, StrengthRange)
    return drawn


@pytest.mark.parametrize(
    "drawn", [StrengthRange(low=0.01, high=0.2), StrengthRange(low=4, high=256), AmountRange(low=0.5, high=1)]
)
def test_the_strengths_of_a_range_are_log_uniform_and_never_outside_it(drawn: StrengthRange) -> None:
    strengths = drawn.draw(50_000, generator())
    assert strengths.min() >= drawn.low
    assert strengths.max() <= drawn.high
    low, width = math.log(drawn.low), math.log(drawn.high / drawn.low)
    assert stats.kstest(np.log(strengths), "uniform", (low, width)).pvalue > 1e-3
    assert strengths.mean() == pytest.approx(log_uniform_mean(drawn), rel=0.02)
    assert abs(np.corrcoef(strengths[1:], strengths[:-1])[0, 1]) < 0.03


@EACH_RANGED
@CHANNELS
def test_under_a_range_the_images_strengths_lie_in_it_and_spread_log_uniformly_over_it(
    kind: NoiseKind, channels: int
) -> None:
    drawn = setting(kind)
    y = kind(flat(0.5, count=600, side=48, channels=channels), generator())
    found = np.log(estimated(kind, 0.5, y) / drawn.low) / math.log(drawn.high / drawn.low)
    assert -0.1 < found.min() < 0.05
    assert 0.95 < found.max() < 1.1
    assert stats.kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("kind", [RANGED[0], RANGED[3]], ids=lambda kind: kind.kind)
def test_under_a_range_noise_is_centred_and_its_mean_variance_is_the_ranges_mean(kind: NoiseKind) -> None:
    noise = kind(flat(0.5, count=3000, side=16), generator()) - np.float32(0.5)
    expected = log_uniform_mean(setting(kind)) * (0.25 if isinstance(kind, Speckle) else 1)
    assert noise.var(dtype=np.float64) == pytest.approx(expected, rel=0.05)
    assert abs(noise.mean(dtype=np.float64)) < 5 * math.sqrt(expected / noise.size)


@pytest.mark.parametrize("x", [0.1, 1.0])
def test_under_a_range_poisson_noise_is_unbiased_with_the_mean_of_x_over_v_as_its_variance(x: float) -> None:
    drawn = StrengthRange(low=4, high=256)
    y = Poisson(peak=drawn)(flat(x, count=3000, side=16), generator())
    inverse = (1 / drawn.low - 1 / drawn.high) / math.log(drawn.high / drawn.low)  # the mean of 1 / v
    assert y.mean(dtype=np.float64) == pytest.approx(x, abs=5 * math.sqrt(x * inverse / y.size))
    assert y.var(dtype=np.float64) == pytest.approx(x * inverse, rel=0.05)


def test_under_a_range_salt_and_pepper_keep_their_proportion_and_no_image_gets_more_than_the_highest_amount() -> None:
    kind = RANGED[1]
    assert isinstance(kind, SaltAndPepper)
    y = kind(flat(0.5, count=2000, side=24), generator())
    salted, peppered = (np.sum(y == value, axis=(1, 2, 3)) for value in (1, 0))
    most = [int(drawn) for (drawn,) in kind.counts(24 * 24, np.array([0.4]))]
    least = [int(drawn) for (drawn,) in kind.counts(24 * 24, np.array([0.02]))]
    for hits, high, low in zip((salted, peppered), most, least, strict=True):
        assert high * 0.7 < hits.max() <= high
        assert 0 < hits.min() <= low + 1
    few = salted + peppered < 60  # where hits that fall on each other hardly count
    assert np.mean(salted[few]) / np.mean((salted + peppered)[few]) == pytest.approx(0.7, abs=0.02)


@EACH_RANGED
def test_a_narrow_range_has_the_law_of_the_number_it_is_drawn_about(kind: NoiseKind) -> None:
    drawn = setting(kind)
    narrow = type(drawn)(low=drawn.high * 0.9999, high=drawn.high)
    x = textured(400)
    errors = [
        np.square(kind.model_copy(update={kind.strength: strength})(x, generator(seed)) - x).mean()
        for seed, strength in enumerate((narrow, drawn.high))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


@EACH_RANGED
def test_under_a_range_an_image_keeps_its_law_whatever_its_neighbours(kind: NoiseKind) -> None:
    image = tiled([0, 0.25, 1], 1500, 12)
    errors = [
        np.square(kind(np.concatenate([image, neighbours]), generator(seed))[:1500] - image).mean()
        for seed, neighbours in enumerate([image[:0], flat(1, 300, 12), textured(300)])
    ]
    assert max(errors) < 1.15 * min(errors)


@pytest.mark.parametrize("bad", [(0.2, 0.1), (0.1, 0.1), (0, 1), (-1, 1), (0.1, math.inf), (math.nan, 1), (True, 2)])
@pytest.mark.parametrize("drawn", [StrengthRange, AmountRange])
def test_a_range_that_is_empty_or_out_of_bounds_is_refused(
    drawn: type[StrengthRange], bad: tuple[float, float]
) -> None:
    with pytest.raises(ValidationError, match=r"low must be below high, received|\n(low|high)\n"):
        drawn.model_validate({"low": bad[0], "high": bad[1]})


def test_a_range_of_amounts_ends_at_all_of_the_pixels() -> None:
    with pytest.raises(ValidationError, match=r"amount\.range\.high\n.*less than or equal to 1"):
        SaltAndPepper.model_validate({"amount": {"low": 0.1, "high": 1.1}})


# All kinds, and the mix


@pytest.mark.parametrize("kind", FOUR + RANGED, ids=lambda kind: kind.kind)
@CHANNELS
def test_noise_is_float32_and_leaves_the_clean_images_alone(kind: NoiseKind, channels: int) -> None:
    x = textured(3, channels=channels)
    before = x.copy()
    y = kind(x, generator())
    assert y.dtype == np.float32
    assert y.shape == x.shape
    np.testing.assert_array_equal(x, before)
    assert not np.shares_memory(x, y)


@pytest.mark.parametrize("layout", ["channels first", "Fortran", "read-only"])
@EACH
def test_images_that_lie_otherwise_in_memory_get_the_same_noise_and_stay_as_they_were(
    kind: NoiseKind, layout: str
) -> None:
    images = textured(40)
    expected, _ = corrupt(images, [kind], generator())
    given = {
        "channels first": np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1),
        "Fortran": np.asfortranarray(images),
        "read-only": images.copy(),
    }[layout]
    given.flags.writeable = False
    noisy, _ = corrupt(given, [kind], generator())
    np.testing.assert_array_equal(noisy, expected)
    np.testing.assert_array_equal(given, images)
    assert (noisy != images).any()


def test_poisson_noise_of_values_above_one_has_the_law_all_the_same() -> None:
    noisy = Poisson(peak=100)(flat(2.0, count=20, side=32), generator())
    assert noisy.mean() == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("kind", FOUR + RANGED, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("count", [0, 1])
def test_noise_takes_a_single_image_and_none(kind: NoiseKind, count: int) -> None:
    assert kind(textured(count), generator()).shape == (count, 12, 12, 1)


@EACH
def test_an_images_noise_has_the_same_law_whatever_its_neighbours(kind: NoiseKind) -> None:
    image = tiled([0, 0.25, 1], 300, 12)
    errors = [
        np.square(kind(np.concatenate([image, neighbours]), generator(seed))[:300] - image).mean()
        for seed, neighbours in enumerate([image[:0], flat(0, 300, 12), flat(1, 300, 12), textured(300)])
    ]
    assert max(errors) < 1.08 * min(errors)


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=4), st.integers(0, 2**31))
@settings(max_examples=20)
def test_each_kind_gets_its_share_of_the_images_by_weight(weights: Sequence[float], seed: int) -> None:
    kinds = [kind.model_copy(update={"weight": weight}) for kind, weight in zip(FOUR, weights, strict=True)]
    _, drawn = corrupt(np.zeros((4000, 2, 2, 1), np.float32), kinds, generator(seed))
    shares = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(shares, np.array(weights) / sum(weights), atol=0.045)


def test_the_kind_reported_is_the_kind_applied() -> None:
    x = flat(0.5, count=200, side=16)
    y, drawn = corrupt(x, (SaltAndPepper(), Speckle(variance=1e-4), Gaussian(variance=4)), generator())
    spread = y.std(axis=(1, 2, 3))
    assert set(np.unique(y[drawn == 0])) == {0, 0.5, 1}
    assert spread[drawn == 1].max() < 0.02
    assert spread[drawn == 2].min() > 1
    assert drawn.dtype == np.uint8


def test_the_same_generator_gives_the_same_pixels_and_another_gives_others() -> None:
    x = textured(40)
    (one, kinds), (same, same_kinds), (other, _) = (corrupt(x, FOUR, generator(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(kinds, same_kinds)
    assert not np.array_equal(one, other)


def test_an_image_as_in_a_file_is_the_drawn_one_clipped_and_rounded_and_survives_a_png(tmp_path: Path) -> None:
    x = textured(60)
    (raw, drawn), (filed, same) = (corrupt(x, FOUR, generator(), file_share=share) for share in (0, 1))
    assert raw.min() < 0
    assert raw.max() > 1
    np.testing.assert_array_equal(filed, to_8bit(raw))
    np.testing.assert_array_equal(drawn, same)
    assert np.abs(filed - np.clip(raw, 0, 1)).max() <= 0.5 / 255 + 1e-6
    Image.fromarray((filed[0, ..., 0] * 255).round().astype(np.uint8)).save(tmp_path / "noisy.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "noisy.png")) / np.float32(255), filed[0, ..., 0])


def test_each_image_is_as_drawn_or_as_in_a_file_by_the_share_and_numbered_so() -> None:
    x = textured(2000)
    (raw, kinds), (mixed, drawn) = (corrupt(x, FOUR, generator(), file_share=share) for share in (0, 0.3))
    filed = drawn >= len(FOUR)
    assert filed.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(drawn - len(FOUR) * filed, kinds)
    np.testing.assert_array_equal(mixed[filed], to_8bit(raw[filed]))
    np.testing.assert_array_equal(mixed[~filed], raw[~filed])
    assert list(noise_shares(FOUR, 0.3)) == [*noise_shares(FOUR, 0), *noise_shares(FOUR, 1)]
    assert sum(noise_shares(FOUR, 0.3).values()) == pytest.approx(1)
    assert [abs(np.corrcoef(filed, kinds == index)[0, 1]) < 0.1 for index in range(4)] == [True] * 4


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_batch_too_small_for_every_kind_is_no_error(count: int, seed: int) -> None:
    noisy, drawn = corrupt(textured(count), FOUR, generator(seed))
    assert (len(noisy), len(drawn)) == (count, count)
    assert np.isfinite(noisy).all()


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 1), np.uint8), np.zeros((8, 8, 1), np.float32)],
    ids=["float64", "uint8", "rank 3"],
)
def test_images_of_another_dtype_or_rank_are_refused(images: Images) -> None:
    with pytest.raises(ValueError, match=rf"images must be float32 of shape .*received {images.dtype} of shape"):
        corrupt(images, FOUR, generator())


def test_a_mix_without_a_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one kind of noise, received none"):
        corrupt(textured(1), (), generator())


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (kind, field, value)
        for kind, field, values in [
            (Gaussian, "variance", (0, -1, math.nan, math.inf)),
            (Gaussian, "weight", (0, -1, math.nan, math.inf)),
            (SaltAndPepper, "amount", (0, 1.1, math.nan)),
            (SaltAndPepper, "salt_share", (-0.1, 1.1, math.nan)),
            (Poisson, "peak", (0, -1, math.nan, math.inf, "auto")),
            (Speckle, "variance", (0, -1, math.nan, math.inf)),
        ]
        for value in values
    ],
)
def test_a_strength_outside_its_range_is_refused(kind: type[NoiseKind], field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        kind.model_validate({field: value})


# The figures of real MNIST; those of salt and pepper left the last row and column out


@pytest.fixture(scope="module")
def digits() -> Images:
    with np.load(sources.MNIST) as arrays:
        images: Images = (arrays["x_test"].astype(np.float32) / np.float32(255))[..., None]
        return images


@pytest.mark.parametrize(
    ("kinds", "raw", "clipped"),
    [
        ((Gaussian(),), 0.1000, 0.0516),
        ((SaltAndPepper(),), 0.0726, 0.0726),
        ((Poisson(),), 0.00210, 0.00128),
        ((Speckle(),), 0.1136, 0.0323),
        (FOUR, 0.0720, 0.0390),
    ],
    ids=["gaussian", "salt_and_pepper", "poisson", "speckle", "equal mix"],
)
def test_doing_nothing_on_mnist_costs_the_measured_error(
    digits: Images, kinds: Sequence[NoiseKind], raw: float, clipped: float
) -> None:
    noisy, _ = corrupt(digits, kinds, generator())
    assert np.mean(np.square(noisy - digits), dtype=np.float64) == pytest.approx(raw, rel=0.025)
    np.clip(noisy, 0, 1, out=noisy)
    assert np.mean(np.square(noisy - digits), dtype=np.float64) == pytest.approx(clipped, rel=0.025)


def test_the_error_of_each_unclipped_law_on_mnist_is_what_the_law_predicts(digits: Images) -> None:
    x = digits.astype(np.float64)
    salted, peppered = (1 - (1 - 1 / 784) ** drawn for drawn in (71, 8))
    v = NonzeroPixels.of(digits).grey_level_peaks().astype(np.float64)[:, None, None, None]
    predicted = [0.1, np.mean(peppered * x**2 + salted * (1 - peppered) * (1 - x) ** 2), np.mean(x / v), np.mean(x**2)]
    found = [np.mean(np.square(kind(digits, generator()) - digits), dtype=np.float64) for kind in FOUR]
    spread = [
        0.005,
        0.005,
        0.0105,
        0.005,
    ]  # four standard errors of Poisson, whose few dark images with small v dominate
    assert np.all(np.abs(np.array(found) / np.array(predicted, np.float64) - 1) < spread)
