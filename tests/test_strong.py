"""Strong views: bit for bit what Pillow makes of the same draws, and random as they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import reference_augment as slow
from labelsieve.data.augment import AS_STORED, CIFAR10
from labelsieve.data.draws import Draws, Stream
from labelsieve.data.operations import MOVES, RECOLORS
from labelsieve.data.strong import Strong, holes, operated, strong_pixels, strong_view
from labelsieve.errors import ConfigError, DataError

N_KINDS = len(slow.NAMES)


def images(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """In turn: pale noise, one color, a ramp with grain, loud noise, two values, all 0, all 255."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (n, 3, height, width), np.uint8)
    for row in range(n):
        if row % 7 == 0:
            made[row] = made[row] // 4 + rng.integers(0, 190, (3, 1, 1), np.uint8)
        elif row % 7 == 1:
            made[row] = rng.integers(0, 256, (3, 1, 1), np.uint8)
        elif row % 7 == 2:
            ramp = np.linspace(0, 255, width) + rng.normal(0, 8, (3, height, width))
            made[row] = ramp.clip(0, 255)
        elif row % 7 == 4:
            made[row] = np.where(made[row] > 99, 200, 30)
        elif row % 7 > 4:
            made[row] = 255 * (row % 7 - 5)
    return torch.from_numpy(made)


def test_the_operations_are_those_of_the_reference_in_its_order_and_ranges():
    ours = [(each.apply.__name__, each.least, each.most) for each in RECOLORS]
    ours += [(each.matrices.__name__, each.least, each.most) for each in MOVES]
    assert ours == [(name, least, most) for name, (_, least, most) in slow.OPERATIONS.items()]


@pytest.mark.parametrize("kind", range(N_KINDS), ids=slow.NAMES)
@pytest.mark.parametrize(
    ("height", "width"), [(32, 32), (24, 37), (96, 70), (130, 129), (3, 3), (2, 5), (1, 1)]
)
def test_each_operation_alone_gives_pillows_bits(kind, height, width):
    shown, n = images(42, height, width), 42
    uniform = Draws(0, 0, torch.arange(n)).uniform(Stream.MAGNITUDES)
    uniform[0], uniform[1] = 0, 1 - 2**-24
    found = operated(shown, torch.full((n, 1), kind), uniform).numpy()
    for row in range(n):
        expected = slow.operated(shown[row].numpy(), [kind], uniform[row].tolist())
        np.testing.assert_array_equal(found[row], expected)


@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    n=st.integers(1, 6),
)
def test_operations_one_after_the_other_give_pillows_bits(seed, height, width, n):
    shown, draws = images(14, height, width, seed), Draws(seed, 0, torch.arange(14))
    chosen = draws.integers(Stream.OPERATIONS, N_KINDS, n)
    uniform = draws.uniform(Stream.MAGNITUDES, n)
    found = operated(shown, chosen, uniform).numpy()
    for row in range(14):
        expected = slow.operated(shown[row].numpy(), chosen[row].tolist(), uniform[row].tolist())
        np.testing.assert_array_equal(found[row], expected)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 36, 32), (80, 100, 70)])
def test_a_strong_view_is_pillows_with_a_hole_of_the_mean_color(height, width, size):
    n = 40
    shown, draws = images(n, height, width), Draws(5, 1, torch.arange(n), 2)
    settings = Strong(size=size, largest_hole=size // 2)
    views = strong_view(shown, settings, draws, CIFAR10).numpy()
    shift = draws.uniform(Stream.SHIFT, 2).tolist()
    flip = draws.uniform(Stream.FLIP)[:, 0].tolist()
    chosen = draws.integers(Stream.OPERATIONS, N_KINDS, 4).tolist()
    amounts = draws.uniform(Stream.MAGNITUDES, 4).tolist()
    hole = draws.uniform(Stream.HOLE, 3).tolist()
    mean, deviation = (np.array(each)[:, None, None] for each in CIFAR10)
    for row in range(n):
        top = int(shift[row][0] * (height - size + 1))
        left = int(shift[row][1] * (width - size + 1))
        part = slow.shifted(shown[row].numpy(), top, left, flip[row] < 0.5, size, 0)
        expected = (slow.operated(part, chosen[row], amounts[row]) / 255 - mean) / deviation
        length, y, x = hole[row]
        inside = slow.hole(size, 1 + int(length * (size // 2)), int(y * size), int(x * size))
        expected[:, inside] = 0
        np.testing.assert_allclose(views[row], expected, atol=1e-5)


def test_without_operations_flip_and_hole_the_image_is_as_it_was():
    shown = images(9, 32, 32)
    settings = Strong(n_operations=0, flip_rate=0, largest_hole=1)
    assert torch.equal(strong_pixels(shown, settings, Draws(0, 0, torch.arange(9))), shown)
    views = strong_view(shown, settings, Draws(0, 0, torch.arange(9)), AS_STORED)
    assert torch.allclose(views, shown.float(), atol=1e-4)


def test_operations_are_drawn_equally_often_with_replacement():
    chosen = Draws(0, 0, torch.arange(50_000)).integers(Stream.OPERATIONS, N_KINDS, 4).numpy()
    for slot in chosen.T:
        assert stats.chisquare(np.bincount(slot, minlength=N_KINDS)).pvalue > 1e-3
    pairs = np.bincount(chosen[:, 0] * N_KINDS + chosen[:, 1], minlength=N_KINDS**2)
    assert stats.chisquare(pairs).pvalue > 1e-3
    untouched = (chosen != slow.NAMES.index("identity")).all(1).sum()
    assert stats.binomtest(int(untouched), 50_000, (13 / 14) ** 4).pvalue > 1e-3


def test_factors_only_weaken_and_posterize_keeps_4_to_7_bits():
    n = 4000
    white = torch.full((n, 3, 4, 4), 255, dtype=torch.uint8)
    uniform = Draws(0, 0, torch.arange(n)).uniform(Stream.MAGNITUDES)
    brightness = operated(white, torch.full((n, 1), slow.NAMES.index("brightness")), uniform)
    assert brightness.max() <= 0.95 * 255
    factor = (brightness[:, 0, 0, 0].double() + 0.5) / 255
    assert stats.kstest(((factor - 0.05) / 0.9).numpy(), "uniform").statistic < 0.03
    bits = operated(white, torch.full((n, 1), slow.NAMES.index("posterize")), uniform)[:, 0, 0, 0]
    counts = [int((bits == 256 - 2 ** (8 - kept)).sum()) for kept in (4, 5, 6, 7)]
    assert sum(counts) == n
    assert stats.chisquare(counts).pvalue > 1e-3


def test_moves_go_equally_far_to_both_sides():
    n = 4000
    dot = torch.zeros(n, 3, 41, 41, dtype=torch.uint8)
    dot[:, :, 20, 20] = 255
    uniform = Draws(0, 0, torch.arange(n)).uniform(Stream.MAGNITUDES)
    moved = operated(dot, torch.full((n, 1), slow.NAMES.index("translation_x")), uniform)
    place = moved[:, 0, 20].int().argmax(1) - 20
    assert moved[:, 0, 20].amax(1).min() == 255
    counts = np.bincount(place + 4, minlength=9)
    assert len(counts) == 9
    # 41 / 10 pixels to each side: seven whole shifts, and 0.6 of one at each end
    assert stats.chisquare(counts, n * np.array([0.6] + [1.0] * 7 + [0.6]) / 8.2).pvalue > 1e-3


def test_holes_have_the_sizes_of_cutout():
    """Golden values of SCAN's Cutout at 32 px with lengths to 16: 69.9 pixels; none in a 16th."""
    n = 100_000
    down, right = holes(Strong(), Draws(0, 0, torch.arange(n)))
    area = down.sum(1) * right.sum(1)
    standard_error = area.std().item() / n**0.5
    assert abs(area.mean().item() - 69.9) < 4 * standard_error + 0.05
    assert abs((area == 0).double().mean().item() - 0.0625) < 0.004
    inner = (down[:, 0] == 0) & (down[:, -1] == 0) & (area > 0)  # not cut by the image's edge
    sides = down.sum(1)[inner].int()
    assert (sides % 2 == 0).all()
    assert sides.max() == 16
    center = (down * torch.arange(32)).sum(1) / down.sum(1).clamp(min=1)
    small = inner & (down.sum(1) == 2)
    rows = (center[small] + 0.5).long() - 2  # of sides of 2: those in 1 to 30 are whole
    assert stats.chisquare(np.bincount(rows, minlength=29)).pvalue > 1e-3


def test_holes_and_operations_have_nothing_to_do_with_each_other():
    draws = Draws(0, 0, torch.arange(20_000))
    columns = torch.cat(
        [draws.uniform(Stream.HOLE, 3), draws.uniform(Stream.MAGNITUDES, 4),
         draws.integers(Stream.OPERATIONS, 14, 4), draws.uniform(Stream.FLIP)], 1,
    )  # fmt: skip
    correlation = np.corrcoef(columns.T.double().numpy()) - np.eye(12)
    assert np.abs(correlation).max() < 4.5 / 20_000**0.5


def test_what_cannot_be_viewed_is_refused():
    draws = Draws(0, 0, torch.arange(2))
    with pytest.raises(ConfigError, match="images of 32 x 20 pixels are smaller than views of 32"):
        strong_view(images(2, 32, 20), Strong(), draws, CIFAR10)
    with pytest.raises(
        DataError, match=r"images are torch\.float32; strong views are made of uint"
    ):
        strong_view(images(2, 32, 32).float(), Strong(), draws, CIFAR10)
    for change, words in (
        ({"n_operations": -1}, "n_operations is -1; at least 0 is needed"),
        ({"largest_hole": 0}, "largest_hole is 0; at least 1 is needed"),
        ({"flip_rate": -0.1}, r"flip_rate is -0\.1; it lies in \[0, 1\]"),
    ):
        with pytest.raises(ConfigError, match=words):
            Strong(**change)
