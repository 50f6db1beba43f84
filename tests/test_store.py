"""Rows made over a long time: what a kill leaves, and what is taken for it afterwards."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data.store import RowStore
from labelsieve.errors import RunError

KEY = {"of": "these images"}


def make(path: Path | None, key: dict = KEY, pieces=(3, 3, 4), stop: int = 99) -> list[int]:
    """Make ten rows, row i full of i, the third image broken; gives the rows that were made."""
    store = RowStore(path, key, 10)
    made: list[int] = []
    for _ in range(stop):
        if store.complete:
            values = store.finish()
            assert values[:, 0].tolist() == [0, 1, 0, *range(3, 10)]
            assert store.broken == {2: "0 bytes"}
            return made
        rows = range(store.done, store.done + pieces[len(store.resumed) + len(made) // 3])
        store.begin((2,), np.float32)
        for row in rows:
            if row != 2:
                store.values[row] = row
        made += rows
        store.note(len(rows), {row: "0 bytes" for row in rows if row == 2}, last=rows[-1])
    return made


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(stop=st.integers(0, 3), cut=st.integers(0, 200))
def test_a_killed_making_goes_on_after_the_last_whole_note(stop, cut):
    with tempfile.TemporaryDirectory() as folder:
        path, notes = Path(folder) / "rows.npy", Path(folder) / "rows.jsonl"
        assert make(path, stop=stop) == list(range((0, 3, 6, 10)[stop]))
        text = notes.read_text() if stop else ""
        if stop and cut:  # as by a kill in the middle of a line
            text = text[:-cut]
            notes.write_text(text)
        # all but the head; a line that lacks only its end is whole
        n_whole = sum(map(is_json, text.splitlines()[1:]))
        assert make(path) == list(range((0, 3, 6, 10)[n_whole], 10))
        assert len(notes.read_text().splitlines()) == 4
        assert make(path) == []  # nothing is left to do
        assert isinstance(np.load(path, mmap_mode="r"), np.memmap)


def test_in_memory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make(None) == list(range(10))
    assert not list(tmp_path.iterdir())


def test_rows_of_another_key_are_forgotten(tmp_path):
    path = tmp_path / "rows.npy"
    make(path)
    assert RowStore(path, KEY, 10).complete
    other = RowStore(path, {"of": "others"}, 10)
    assert (other.done, other.begun, other.resumed) == (0, False, [])
    # from now on, also for those that made them: something else may have been overwritten
    assert not RowStore(path, KEY, 10).begun


def test_an_older_array_of_that_name_is_not_taken_for_one_that_lacks_only_its_name(tmp_path):
    path = tmp_path / "rows.npy"
    make(path)
    store = RowStore(path, {"of": "others"}, 10)
    store.begin((2,), np.float32)
    store.values[:] = 7
    store.note(10)  # and a kill before it is finished
    again = RowStore(path, {"of": "others"}, 10)
    assert again.complete
    assert (again.values == 7).all()
    assert (again.finish() == 7).all()


@pytest.mark.parametrize("change", ["gone", "cut", "another shape"])
def test_notes_without_their_rows_do_not_count(tmp_path, change):
    path = tmp_path / "rows.npy"
    make(path)
    if change == "gone":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        np.save(path, np.zeros((10, 3), np.float32))
    assert make(path) == list(range(10))


def test_another_number_of_images_is_another_array(tmp_path):
    path = tmp_path / "rows.npy"
    make(path)
    assert not RowStore(path, KEY, 11).begun


def test_what_is_noted_before_a_row_is_known_is_kept(tmp_path):
    path = tmp_path / "rows.npy"
    store = RowStore(path, KEY, 4)
    store.note(2, {0: "0 bytes", 1: "0 bytes"})
    assert not list(tmp_path.iterdir())
    store.begin((5,), np.uint8)
    store.note(1)
    again = RowStore(path, KEY, 4)
    assert (again.done, again.broken) == (3, {0: "0 bytes", 1: "0 bytes"})
    assert again.values.shape == (4, 5)


def test_a_grown_array_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "rows.npy"
    make(path, stop=2)
    assert not path.exists()
    make(path)
    assert {p.name for p in tmp_path.iterdir()} == {"rows.npy", "rows.jsonl"}
    with pytest.raises(ValueError, match="read-only"):
        RowStore(path, KEY, 10).finish()[0] = 1


def test_a_folder_that_is_not_there_is_named(tmp_path):
    store = RowStore(tmp_path / "nowhere" / "rows.npy", KEY, 3)
    with pytest.raises(RunError, match="Make the folder"):
        store.begin((2,), np.float32)
