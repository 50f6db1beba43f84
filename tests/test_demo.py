from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from labelsieve.data.demo import DemoNoise, make_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory):
    return make_demo(tmp_path_factory.mktemp("demo"))


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_file_is_in_the_truth_table_and_the_reverse(demo):
    files = {str(path.relative_to(demo.images)) for path in demo.images.rglob("*.*")}
    assert files == {row["image"] for row in rows(demo.truth)}


def test_the_planted_rates_are_those_of_the_settings(demo):
    truth = rows(demo.truth)
    digits = [row for row in truth if int(row["image"][2:6]) < 2000]
    moved = sum(row["image"][0] != row["truth"] for row in digits)
    kinds = Counter(row["truth"] for row in truth)
    noise = DemoNoise()
    assert len(digits) == 1797
    assert moved == round(noise.mislabeled * 1797)
    assert kinds["foreign"] == round(noise.foreign * 1797)
    assert kinds["broken"] == 1
    assert sum(row["duplicate_of"] != "" for row in truth) == 24


def test_duplicates_lie_beside_their_originals_and_the_exact_ones_are_equal(demo):
    for row in rows(demo.truth):
        if row["duplicate_of"]:
            copy, original = demo.images / row["image"], demo.images / row["duplicate_of"]
            assert copy.parent == original.parent
            assert (copy.read_bytes() == original.read_bytes()) == (copy.suffix == ".png")


def test_images_are_32_px_and_the_broken_one_does_not_open(demo):
    for row in rows(demo.truth)[::50]:
        if row["truth"] != "broken":
            with Image.open(demo.images / row["image"]) as picture:
                assert picture.size == (32, 32)
    broken = next(row["image"] for row in rows(demo.truth) if row["truth"] == "broken")
    with Image.open(demo.images / broken) as picture, pytest.raises(OSError, match="truncated"):
        picture.load()


def test_the_same_seed_makes_the_same_set_and_another_seed_another(tmp_path: Path, demo):
    again = make_demo(tmp_path / "again")
    other = make_demo(tmp_path / "other", seed=1)
    assert again.truth.read_text() == demo.truth.read_text()
    assert other.truth.read_text() != demo.truth.read_text()
