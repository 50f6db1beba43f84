from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from labelsieve.data.augment import CIFAR10, Contrastive, contrastive_view
from labelsieve.data.batches import resident
from labelsieve.data.draws import Draws
from labelsieve.errors import ConfigError, NumericError
from labelsieve.features.views import view_rows

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
ROWS = np.array([3, 19, 0, 7, 7, 11, 4])


def numbered(images, rows, place):
    """A view that says which image, row and view it is of."""
    first = images.float().flatten(1)[:, :1]
    return torch.cat([first, rows[:, None].float(), torch.full_like(first, place)], dim=1)


def plain(rows):
    return rows


def made(encode=plain, view=numbered, n_views=3, *, rows=ROWS, **options):
    options = {"seed": 0, "batch_size": 3, "made_by": "test", **options}
    return view_rows(resident(PIXELS), rows, encode, view, n_views, **options)


def test_each_view_of_each_row_is_in_its_place():
    found = made()
    assert found.shape == (3, 7, 3)
    assert found.dtype == np.float32
    for place in range(3):
        assert np.array_equal(found[place, :, 0], PIXELS[ROWS, 0, 0, 0])
        assert np.array_equal(found[place, :, 1], ROWS)
        assert (found[place, :, 2] == place).all()


def test_views_are_augmented_and_belong_to_their_rows():
    def view(images, rows, place):
        return contrastive_view(images, Contrastive(size=8), Draws(5, 0, rows, place), CIFAR10)

    found = made(lambda views: views.flatten(1), view)
    expected = [
        view(torch.from_numpy(PIXELS[[row]]), torch.tensor([row]), place).flatten(1)[0].numpy()
        for place in range(3)
        for row in ROWS
    ]
    assert found.reshape(21, -1) == pytest.approx(np.stack(expected), abs=1e-5)
    assert not np.allclose(found[0], found[1])


@pytest.mark.parametrize(("dtype", "kept"), [("float16", "float16"), ("bfloat16", "float32")])
def test_rows_in_half_precision_stay_so_where_numpy_knows_it(dtype, kept):
    found = made(lambda rows: rows.to(getattr(torch, dtype)))
    assert found.dtype == kept
    assert np.array_equal(found[:, :, 1], np.stack([ROWS] * 3))


def test_the_encoder_is_not_changed():
    layer = torch.nn.Linear(3, 2)
    found = made(layer)
    assert found.shape == (3, 7, 2)
    assert layer.weight.grad is None


class Stop(Exception):
    pass


def test_an_interrupted_call_goes_on_where_it_was(tmp_path: Path):
    path, seen = tmp_path / "views.npy", []

    def encode(rows):
        seen.append(rows[:, 1].tolist())
        return rows

    def progress(done, total):
        assert total == 7
        if done == 6:
            raise Stop

    with pytest.raises(Stop):
        made(encode, path=path, progress=progress)
    assert not path.exists()
    before = len(seen)
    found = made(encode, path=path)
    assert seen[before:] == [[4.0]] * 3  # the last image, in each of its views
    assert np.array_equal(found, made())
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    n = len(seen)
    assert np.array_equal(made(encode, path=path), found)
    assert len(seen) == n  # nothing is made again


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"n_views": 2}, {"made_by": "other"}, {"rows": ROWS[::-1]}, {"batch_size": 2}],
)
def test_what_is_of_other_views_is_made_again(tmp_path: Path, changes):
    path, calls = tmp_path / "views.npy", []

    def encode(rows):
        calls.append(len(rows))
        return rows

    made(encode, path=path)
    n = len(calls)
    found = made(encode, path=path, **changes)
    assert len(calls) > n
    assert np.array_equal(found, made(**changes))


def test_what_was_made_is_noted(tmp_path: Path):
    made(path=tmp_path / "views.npy")
    head, *pieces = (tmp_path / "views.jsonl").read_text().splitlines()
    assert json.loads(head)["shape"] == [7, 3, 3]
    assert [json.loads(piece)["n"] for piece in pieces] == [3, 3, 1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_views": 0}, ConfigError, "n_views is 0; at least 1 is needed."),
        ({"batch_size": 0}, ConfigError, "batch_size is 0; at least 1 is needed."),
        ({"rows": ROWS[:0]}, ConfigError, "there are no images to make views of; give at least"),
        ({"encode": lambda rows: rows[:, None]}, ConfigError, r"gives \(3, 1, 3\) for 3 images;"),
        ({"encode": lambda rows: rows[:1]}, ConfigError, r"gives \(1, 3\) for 3 images; expected"),
        ({"encode": lambda rows: rows / 0}, NumericError, "the encoder gives numbers that are not"),
    ],
)
def test_what_cannot_be_made_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        made(**options)
