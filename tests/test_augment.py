"""Contrastive, weak and clean views, and mixtures: against Pillow and loops, and as random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import stats

import reference_augment as slow
from labelsieve.data.augment import (
    AS_STORED,
    CIFAR10,
    Contrastive,
    Normalization,
    Weak,
    clean_view,
    contrastive_view,
    weak_view,
)
from labelsieve.data.blur import blur_some, blurred
from labelsieve.data.colors import Recoloring
from labelsieve.data.crops import Windows, cut, n_numbers, random_windows
from labelsieve.data.draws import Draws, Stream, batch_generator
from labelsieve.data.mixing import mixing, mixup
from labelsieve.data.strong import Strong, strong_view
from labelsieve.errors import ConfigError

PLAIN = {"smallest_crop": 1.0, "aspect": 1.0, "flip_rate": 0.0, "jitter_rate": 0.0,
         "gray_rate": 0.0}  # fmt: skip


def rows(n: int) -> torch.Tensor:
    return torch.arange(n)


def pictures(n: int, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth shapes with grain: about what photographs are like."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float)
        made.append((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255))
    return torch.from_numpy(np.array(made).transpose(0, 3, 1, 2).astype(np.uint8).copy())


def sheets(n: int, *colors: int, size: int = 8) -> torch.Tensor:
    """Images of one color, which a crop does not change."""
    return torch.tensor(colors, dtype=torch.uint8).view(1, 3, 1, 1).repeat(n, 1, size, size)


def view(images: torch.Tensor, **changes: float) -> torch.Tensor:
    """A contrastive view in 0 to 255, of which nothing is changed but what is named."""
    size = changes.pop("size", images.shape[2])
    settings = Contrastive(size=size, **{**PLAIN, **changes})
    return contrastive_view(images, settings, Draws(0, 0, rows(len(images))), AS_STORED)


# crops


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    smallest=st.floats(0.05, 1),
    aspect=st.floats(1, 3),
    seed=st.integers(0, 99),
)
def test_windows_are_those_of_ten_tries_one_after_the_other(height, width, smallest, aspect, seed):
    uniform = Draws(seed, 0, rows(50)).uniform(Stream.CROP, n_numbers())
    found = torch.stack(random_windows(uniform, height, width, smallest, aspect), 1).int().tolist()
    differ = 0
    for numbers, (top, left, high, wide) in zip(uniform.tolist(), found, strict=True):
        assert 0 <= top <= top + high <= height
        assert 0 <= left <= left + wide <= width
        assert high >= 1
        assert wide >= 1
        box = slow.crop_box(numbers, height, width, smallest, aspect)
        differ += box != (left, top, left + wide, top + high)
    assert differ <= 1  # a side that float32 rounds to the other whole number


def test_windows_that_never_fit_become_the_central_ones():
    uniform = Draws(0, 0, rows(5)).uniform(Stream.CROP, n_numbers())
    windows = random_windows(uniform, 10, 100, 1.0, 4 / 3)  # all of it, at most 4/3 as wide as high
    assert torch.stack(windows, 1).tolist() == [[0, 43, 10, 13]] * 5


def test_area_and_aspect_of_crops_are_uniform_where_all_fit():
    uniform = Draws(0, 0, rows(20_000)).uniform(Stream.CROP, n_numbers())
    top, left, high, wide = (
        each.double().numpy() for each in random_windows(uniform, 1000, 1000, 0.2, 1.0)
    )
    share = (high * wide / 1000**2 - 0.2) / 0.8
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    for first, extent in ((top, high), (left, wide)):
        place = (first + 0.5) / (1001 - extent)  # where in the room there is
        assert stats.kstest(place[extent < 900], "uniform").pvalue > 1e-3
    small = random_windows(uniform, 1000, 1000, 0.2, 3.0)
    fits = (small[2] * small[3]).numpy() < 0.3e6  # small enough for any aspect
    ratio = ((small[3] / small[2]).log().numpy()[fits] / np.log(3) + 1) / 2
    assert stats.kstest(ratio, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 32), (20, 33, 32), (80, 61, 32), (7, 5, 32), (96, 96, 96), (150, 90, 96), (9, 9, 70)],
)
def test_a_crop_is_what_pillow_makes_of_the_same_window(height, width, size):
    images = pictures(12, height, width)
    uniform = Draws(0, 0, rows(12)).uniform(Stream.CROP, n_numbers())
    edges = random_windows(uniform, height, width, 0.1, 2.0)
    mirrored = rows(12) % 2 == 1
    for shown in (images, images.float()):  # uint8 takes another way from 64 px on
        found = cut(shown, Windows(*edges, mirrored), size).numpy()
        for row, (top, left, high, wide) in enumerate(torch.stack(edges, 1).int().tolist()):
            box = (left, top, left + wide, top + high)
            expected = slow.resized(images[row].numpy(), box, size)
            expected = expected[..., ::-1] if mirrored[row] else expected
            assert np.abs(found[row] - expected).max() <= 1.01


def test_the_whole_image_at_its_own_size_is_the_image():
    for side in (32, 96):
        images = pictures(5, side, side)
        assert torch.equal(view(images), images.float())


# colors


factors = st.floats(0, 2, width=32)


@given(
    brightness=factors, contrast=factors, saturation=factors, turn=st.floats(-0.5, 0.5, width=32)
)
def test_one_matrix_does_what_four_operations_do(brightness, contrast, saturation, turn):
    images = pictures(2, 5, 4)
    amounts = [
        torch.tensor([9.0, each], dtype=torch.float32)
        for each in (brightness, contrast, saturation, turn)
    ]
    found = Recoloring(*amounts)(images[1:].float(), slice(1, 2))[0].numpy()
    expected = slow.recolored(images[1].numpy(), brightness, contrast, saturation, turn)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_third_of_a_turn_makes_red_green_and_green_blue():
    third = torch.full((1,), 1 / 3)
    red, green = sheets(1, 255, 0, 0).float(), sheets(1, 0, 255, 0).float()
    one = torch.ones(1)
    turn = Recoloring(one, one, one, third)
    assert torch.allclose(turn(red, slice(0, 1)), green, atol=1e-3)
    assert torch.allclose(turn(green, slice(0, 1)), sheets(1, 0, 0, 255).float(), atol=1e-3)


def test_gray_images_stay_gray_whatever_the_colors_do():
    gray = pictures(30)[:, :1].repeat(1, 3, 1, 1)
    views = contrastive_view(gray, Contrastive(), Draws(0, 0, rows(30)), AS_STORED)
    assert (views.amax(1) - views.amin(1)).max() < 0.01


def test_gray_views_have_three_equal_channels_and_keep_the_luma():
    images = pictures(10)
    views = view(images, gray_rate=1.0).numpy()
    luma = np.einsum("c,bchw->bhw", [0.299, 0.587, 0.114], images.numpy())
    np.testing.assert_allclose(views, np.repeat(luma[:, None], 3, 1), atol=0.01)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_are_uniform_about_1(name):
    n = 4000
    images = sheets(n, 120, 60, 90) if name != "contrast" else sheets(n, 100, 100, 100)
    if name == "contrast":
        images[:, :, :, 4:] = 60
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, name: 0.4}
    views = view(images, jitter_rate=1.0, **off)
    if name == "brightness":
        factor = views[:, 0, 0, 0] / 120
    elif name == "contrast":
        factor = (views[:, 0, 0, 0] - views[:, 0, 0, 7]) / 40
    else:
        factor = (views[:, 0, 0, 0] - views[:, 1, 0, 0]) / 60
    assert stats.kstest(((factor - 0.6) / 0.8).numpy(), "uniform").pvalue > 1e-3


def test_hues_turn_uniformly_to_both_sides():
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    views = view(sheets(4000, 150, 90, 90), jitter_rate=1.0, hue=0.1, **off)[:, :, 0, 0].double()
    across = (views[:, 1] - views[:, 2]) / 3**0.5
    along = (2 * views[:, 0] - views[:, 1] - views[:, 2]) / 3
    turn = torch.atan2(across, along) / (2 * torch.pi)
    assert stats.kstest(((turn + 0.1) / 0.2).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("rate", "changes"),
    [
        ("flip_rate", {}),
        ("jitter_rate", {"hue": 0.0, "contrast": 0.0, "saturation": 0.0}),
        ("gray_rate", {}),
        ("blur_rate", {"least_blur": 1.0}),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_each_change_happens_at_its_rate(rate, changes, share):
    images = pictures(1).repeat(2000, 1, 1, 1)
    views = view(images, **{rate: share, **changes})
    changed = ((views - images).abs().amax((1, 2, 3)) > 0.01).sum().item()
    assert (
        stats.binomtest(changed, 2000, share).pvalue > 1e-3
        if 0 < share < 1
        else (changed == 2000 * share)
    )


def test_changes_of_a_view_are_independent_of_each_other():
    draws = Draws(0, 0, rows(4000))
    columns = [
        draws.uniform(stream, n) for stream, n in
        ((Stream.CROP, 22), (Stream.FLIP, 1), (Stream.COLOR, 6), (Stream.BLUR, 2))
    ]  # fmt: skip
    correlation = np.corrcoef(torch.cat(columns, 1).T.double().numpy()) - np.eye(31)
    assert np.abs(correlation).max() < 4.5 / 4000**0.5


# blur


@given(deviation=st.floats(0.1, 4), seed=st.integers(0, 99))
def test_blur_is_a_gaussian_mean_over_the_image(deviation, seed):
    image = pictures(1, 6, 6, seed)[0]
    found = blurred(image[None].float(), torch.tensor([deviation], dtype=torch.float32))[0]
    np.testing.assert_allclose(found, slow.blurred(image.numpy(), deviation), atol=0.02)


def test_large_images_are_blurred_as_small_ones_are():
    images = pictures(6, 70, 70).float()
    deviation = torch.tensor([0.0, 0.1, 0.5, 1.3, 2.0, 0.0])
    expected = blurred(images, deviation.clamp(min=0.01))
    assert torch.allclose(blur_some(images.clone(), deviation), expected, atol=0.02)


def test_blur_is_pillows_away_from_the_rim():
    image = pictures(1, 64, 64)[0]
    found = blurred(image[None].float(), torch.tensor([2.0]))[0]
    pillow = slow.pixels(slow.picture(image.numpy()).filter(ImageFilter.GaussianBlur(2.0)))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    assert np.abs(found.numpy() - pillow)[inner].max() < 2  # Pillow's is three box filters


def test_blurred_rows_are_those_drawn_and_their_widths_are_uniform():
    dot = torch.zeros(3000, 3, 21, 21, dtype=torch.uint8)
    dot[:, :, 10, 10] = 255
    views = view(dot, blur_rate=1.0, least_blur=0.8, most_blur=2.0)[:, 0, 10].double()
    # the ratio of two neighbors of a Gaussian tells its width: exp(-1 / (2 s^2))
    width = (-0.5 / (views[:, 11] / views[:, 10]).log()).sqrt()
    assert stats.kstest(((width - 0.8) / 1.2).numpy(), "uniform").pvalue > 1e-3


# the whole


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 30, 32), (100, 120, 96)])
def test_a_contrastive_view_is_its_steps_one_after_the_other(height, width, size):
    n = 12
    images = pictures(n, height, width)
    settings = Contrastive(size=size, blur_rate=0.5)
    draws = Draws(3, 1, rows(n), view=1)
    views = contrastive_view(images, settings, draws, CIFAR10).numpy()
    crop = draws.uniform(Stream.CROP, 22).tolist()
    flip = draws.uniform(Stream.FLIP)[:, 0].tolist()
    colors = draws.uniform(Stream.COLOR, 6).tolist()
    blur = draws.uniform(Stream.BLUR, 2).tolist()
    for row in range(n):
        shown = slow.resized(
            images[row].numpy(), slow.crop_box(crop[row], height, width, 0.2, 4 / 3), size
        )
        shown = shown[..., ::-1] if flip[row] < 0.5 else shown
        on, *strengths, gray = colors[row]
        amounts = [
            strength * (2 * uniform - 1) if on < 0.8 else 0
            for strength, uniform in zip((0.4, 0.4, 0.4, 0.1), strengths, strict=True)
        ]
        saturation = 0 if gray < 0.2 else 1 + amounts[2]
        shown = slow.recolored(shown, 1 + amounts[0], 1 + amounts[1], saturation, amounts[3])
        if blur[row][0] < 0.5:
            shown = slow.blurred_separably(shown, 0.1 + 1.9 * blur[row][1])
        shown = shown.clip(0, 255)
        mean, deviation = (np.array(each)[:, None, None] for each in CIFAR10)
        # Pillow rounds its crop; brightness, contrast and saturation make more of that.
        off = np.abs(255 * (views[row] * deviation + mean) - shown)
        assert off.max() < 4
        assert off.mean() < 0.5


def test_two_views_of_an_image_differ_and_an_epoch_brings_others():
    images = pictures(20)
    seen = set()
    for seed, epoch, number in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)):
        draws = Draws(seed, epoch, rows(20), number)
        views = contrastive_view(images, Contrastive(), draws, CIFAR10)
        seen |= {each.numpy().tobytes() for each in views}
    assert len(seen) == 80


KINDS = {
    "contrastive": lambda images, draws: contrastive_view(
        images, Contrastive(size=images.shape[2] - 4, blur_rate=0.5), draws, CIFAR10
    ),
    "weak": lambda images, draws: weak_view(images, Weak(size=images.shape[2] - 4), draws, CIFAR10),
    "strong": lambda images, draws: strong_view(
        images, Strong(size=images.shape[2] - 4), draws, CIFAR10
    ),
    "clean": lambda images, draws: clean_view(images, images.shape[2] - 4, CIFAR10),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [36, 100])
def test_an_image_gets_the_same_view_in_any_batch_at_any_place(kind, side):
    n = 64 if side < 64 else 20
    images, make = pictures(n, side, side), KINDS[kind]
    whole = make(images, Draws(0, 2, rows(n)))
    alone = make(images[7:8], Draws(0, 2, rows(n)[7:8]))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    other = make(images[order], Draws(0, 2, order))
    assert torch.equal(alone[0], whole[7])
    assert torch.equal(other, whole[order])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [36, 100])
def test_views_are_float32_channels_last_and_leave_the_images_alone(kind, side):
    images = pictures(3, side, side)
    before = images.clone()
    for n in (0, 1, 3):
        views = KINDS[kind](images[:n], Draws(0, 0, rows(n)))
        assert views.shape == (n, 3, side - 4, side - 4)
        assert views.dtype == torch.float32
        assert views.is_contiguous(memory_format=torch.channels_last)
        assert views.isfinite().all()
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", ["contrastive", "weak", "clean"])
def test_float_images_give_the_views_of_uint8_ones_and_are_left_alone(kind):
    images = pictures(10, 36, 36)
    floats = images.float()
    views = KINDS[kind](floats, Draws(0, 0, rows(10)))
    assert torch.equal(views, KINDS[kind](images, Draws(0, 0, rows(10))))
    assert torch.equal(floats, images.float())


@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_extreme_and_constant_images_stay_in_range(value):
    images = sheets(200, value, value, value)
    settings = Contrastive(size=8, blur_rate=0.5)
    views = contrastive_view(images, settings, Draws(0, 0, rows(200)), AS_STORED)
    assert views.min() >= 0
    assert views.max() <= 255
    assert (views.amax((1, 2, 3)) - views.amin((1, 2, 3))).max() < 1e-2


def test_normalization_takes_the_mean_off_and_divides_by_the_deviation():
    halves = Normalization((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    views = clean_view(sheets(1, 255, 0, 51), 8, halves)
    assert views[0, :, 3, 3].tolist() == pytest.approx([1, -1, 0.2], abs=1e-6)


# weak and clean views


@pytest.mark.parametrize(
    ("height", "width", "size", "padding"),
    [(16, 16, 16, 4), (16, 16, 16, 0), (20, 17, 12, 3), (10, 9, 12, 2), (70, 80, 66, 2)],
)
def test_weak_views_are_pixels_moved_by_whole_places(height, width, size, padding):
    images = pictures(20, height, width)
    draws = Draws(0, 0, rows(20))
    views = weak_view(images, Weak(size=size, padding=padding), draws, AS_STORED).numpy()
    shift = draws.uniform(Stream.SHIFT, 2).tolist()
    flip = draws.uniform(Stream.FLIP)[:, 0].tolist()
    for row in range(20):
        top = int(shift[row][0] * (height + 2 * padding - size + 1))
        left = int(shift[row][1] * (width + 2 * padding - size + 1))
        expected = slow.shifted(images[row].numpy(), top, left, flip[row] < 0.5, size, padding)
        np.testing.assert_allclose(views[row], expected, atol=1e-4)


def test_all_shifts_are_equally_frequent_with_and_without_a_flip():
    n = 16_200
    dot = torch.zeros(n, 3, 11, 11, dtype=torch.uint8)
    dot[:, :, 5, 5] = 255
    dot[:, :, 5, 6] = 100  # right of the other, until mirrored
    views = weak_view(dot, Weak(size=11), Draws(0, 0, rows(n)), AS_STORED)[:, 0]
    place = views.flatten(1).argmax(1)
    y, x = place // 11 - 1, place % 11 - 1
    right = views.flatten(1).gather(1, (place + 1).clamp(max=120)[:, None])[:, 0] > 50
    counts = np.bincount(y * 18 + x * 2 + right.long(), minlength=162)
    assert len(counts) == 162
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_clean_view_is_the_central_square():
    images = pictures(3, 40, 32)
    views = clean_view(images, 32, AS_STORED)
    assert torch.equal(views, images[:, :, 4:36].float())
    small = clean_view(pictures(3, 50, 70), 16, AS_STORED).numpy()
    for row, image in enumerate(pictures(3, 50, 70).numpy()):
        expected = slow.resized(image, (10, 0, 60, 50), 16)
        assert np.abs(small[row] - expected).max() <= 1.01


# mixtures


def test_mixup_is_the_weighted_mean_with_the_partner():
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    permutation = torch.tensor([3, 0, 2, 4, 1])
    mixed = mixup(images, permutation, 0.7)
    for row in range(5):
        expected = 0.7 * images[row] + 0.3 * images[permutation[row]]
        assert torch.allclose(mixed[row], expected, atol=1e-6)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mixup(images, permutation, 1.0), images)
    assert torch.equal(mixup(images, permutation, 0.0), images[permutation])


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixing_factors_are_of_the_beta_distribution_folded_where_asked(alpha):
    factors = [mixing(batch_generator(0, 0, step), 2, alpha, False)[0] for step in range(2000)]
    assert stats.kstest(factors, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    folded = [mixing(batch_generator(0, 0, step), 2, alpha)[0] for step in range(2000)]
    assert folded == [max(factor, 1 - factor) for factor in factors]


def test_every_permutation_of_three_is_equally_frequent():
    drawn = [tuple(mixing(batch_generator(0, 0, step), 3)[1].tolist()) for step in range(3000)]
    counts = [drawn.count(each) for each in set(drawn)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


# what is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 0}, "size is 0; at least 1 pixel is needed"),
        ({"smallest_crop": 0}, r"smallest_crop is 0; it lies in \(0, 1\]"),
        ({"aspect": 0.5}, r"aspect is 0\.5; at least 1 is needed"),
        ({"hue": 0.6}, r"hue is 0\.6; it lies in \[0, 0\.5\]"),
        ({"gray_rate": 1.5}, r"gray_rate is 1\.5; it lies in \[0, 1\]"),
        ({"brightness": float("nan")}, r"brightness is nan; it lies in \[0, 1\]"),
        ({"least_blur": 3.0}, r"least_blur is 3\.0 and most_blur 2\.0; expected 0 < least_blur <="),
    ],
)
def test_strengths_out_of_range_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        Contrastive(**change)


def test_weak_settings_and_images_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="padding is -1; at least 0 is needed"):
        Weak(padding=-1)
    with pytest.raises(ConfigError, match=r"flip_rate is 2; it lies in \[0, 1\]"):
        Weak(flip_rate=2)
    with pytest.raises(
        ConfigError, match="images of 20 x 32 pixels with a padding of 4 are smaller than views of"
    ):
        weak_view(pictures(2, 20, 32), Weak(), Draws(0, 0, rows(2)), CIFAR10)
    with pytest.raises(ConfigError, match="alpha is 0; it must be above 0"):
        mixing(batch_generator(0, 0, 0), 4, alpha=0)
