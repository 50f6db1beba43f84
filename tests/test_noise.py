"""Noise made on purpose hits its rate, keeps the truth, and touches nothing else."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labelsieve.data import corrupt as corrupt_module
from labelsieve.data.corrupt import corrupt, write_parquet
from labelsieve.data.noise import asymmetric, foreign, symmetric, transition
from labelsieve.data.places import Reader
from labelsieve.data.read import read
from labelsieve.errors import ConfigError, DataError, RunError

SEEDS = st.integers(0, 10_000)
RATES = st.floats(0, 1)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@st.composite
def label_sets(draw_from) -> tuple[np.ndarray, int]:
    n_classes = draw_from(st.integers(2, 6))
    labels = draw_from(st.lists(st.integers(-1, n_classes - 1), min_size=1, max_size=60))
    return np.array(labels, np.int64), n_classes


@given(label_sets(), RATES, SEEDS)
def test_symmetric_noise_changes_exactly_its_share(labeled, rate, seed):
    labels, n_classes = labeled
    before = labels.copy()
    noisy = symmetric(labels, n_classes, rate, draw(seed))
    assert (labels == before).all()
    assert (noisy != labels).sum() == round(rate * (labels >= 0).sum())
    assert (noisy[labels < 0] == -1).all()
    assert (noisy[labels >= 0] >= 0).all()
    assert noisy.max(initial=-1) < n_classes
    assert (noisy == symmetric(labels, n_classes, rate, draw(seed))).all()


def test_symmetric_noise_takes_every_other_class_as_often():
    labels = np.repeat(np.arange(4), 3000)
    noisy = symmetric(labels, 4, 0.5, draw())
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (labels, noisy), 1)
    off = counts[~np.eye(4, dtype=bool)]
    assert off.sum() == 6000
    assert np.abs(off - 500).max() < 5 * np.sqrt(500)  # five standard deviations


def test_symmetric_noise_leaves_alone_what_is_not_among():
    labels = np.zeros(10, np.int64)
    among = np.arange(10) < 4
    noisy = symmetric(labels, 2, 0.3, draw(), among)
    assert (noisy != 0).sum() == 3
    assert (noisy[4:] == 0).all()
    with pytest.raises(ConfigError) as error:
        symmetric(labels, 2, 0.5, draw(), among)
    assert str(error.value) == (
        "symmetric noise of 0.5 needs 5 images, but other noise leaves only 4 of them as they are. "
        "Lower one of the rates."
    )


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_share_is_an_error(rate):
    with pytest.raises(
        ConfigError, match=r"the symmetric rate is .*; expected a share between 0 and 1"
    ):
        symmetric(np.zeros(3, np.int64), 2, rate, draw())


def test_symmetric_noise_needs_two_classes():
    with pytest.raises(ConfigError, match="symmetric noise needs 2 classes or more; there is 1"):
        symmetric(np.zeros(3, np.int64), 1, 0.5, draw())
    assert symmetric(np.zeros(3, np.int64), 1, 0.0, draw()).tolist() == [0, 0, 0]


@given(label_sets(), RATES, SEEDS)
def test_asymmetric_noise_moves_exactly_its_share_of_each_class(labeled, rate, seed):
    labels, n_classes = labeled
    pairs = {0: 1, 1: 0}
    noisy = asymmetric(labels, pairs, rate, draw(seed))
    for given_class, target in pairs.items():
        rows = labels == given_class
        assert (noisy[rows] == target).sum() == round(rate * rows.sum())
        assert ((noisy[rows] == target) | (noisy[rows] == given_class)).all()
    others = (labels != 0) & (labels != 1)
    assert (noisy[others] == labels[others]).all()
    assert n_classes >= 2


@given(SEEDS)
def test_transition_draws_by_the_rows_of_the_matrix(seed):
    matrix = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]])
    labels = np.concatenate([np.repeat(np.arange(3), 2000), [-1]])
    noisy = transition(labels, matrix, draw(seed))
    assert noisy[-1] == -1
    for given_class in range(3):
        share = np.bincount(noisy[labels == given_class], minlength=3) / 2000
        assert share == pytest.approx(matrix[given_class], abs=5 * 0.5 / np.sqrt(2000))
        assert (share[matrix[given_class] == 0] == 0).all()


def test_transition_by_the_identity_changes_nothing_and_by_a_permutation_everything():
    labels = np.arange(7, dtype=np.int64) % 3
    assert (transition(labels, np.eye(3), draw()) == labels).all()
    cycle = np.roll(np.eye(3), 1, axis=1)
    assert (transition(labels, cycle, draw()) == (labels + 1) % 3).all()


def test_a_matrix_that_is_none_is_an_error():
    labels = np.array([0, 1, 2])
    with pytest.raises(
        ConfigError, match=r"shape \(2, 2\); expected one row and one column for each of 3"
    ):
        transition(labels, np.eye(2), draw())
    with pytest.raises(ConfigError, match=r"row 1 of the transition matrix sums to 0.5"):
        transition(labels, np.array([[1, 0, 0], [0, 0.5, 0], [0, 0, 1.0]]), draw())
    with pytest.raises(ConfigError, match=r"row 0 .* a least entry of -1"):
        transition(labels, np.array([[2.0, -1, 0], [0, 1, 0], [0, 0, 1]]), draw())


@given(label_sets(), RATES, SEEDS, st.integers(1, 30))
def test_foreign_replaces_exactly_its_share_and_repeats_late(labeled, rate, seed, n_others):
    labels, _ = labeled
    candidates = np.arange(n_others) * 2
    shown = foreign(labels, candidates, rate, draw(seed))
    used = shown[shown >= 0]
    assert len(used) == round(rate * (labels >= 0).sum())
    assert (shown[labels < 0] == -1).all()
    assert set(used.tolist()) <= set(candidates.tolist())
    times = np.bincount(used // 2, minlength=n_others)
    assert times.max() - times.min() <= 1


# written sets


def picture(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (3, 3), value).save(out, "PNG")
    return out.getvalue()


def tree(root: Path, classes: dict[str, int], first: int = 0) -> Path:
    for name, n in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            (root / name / f"{i:03d}.png").write_bytes(picture(first + i))
    return root


@pytest.fixture
def own(tmp_path):
    return read(tree(tmp_path / "own", {"ant": 40, "bee": 40, "cow": 20}))


@pytest.fixture
def others(tmp_path):
    return read(tree(tmp_path / "others", {"car": 8, "ant": 8, "bus": 8}, first=100))


def test_a_corrupted_set_has_its_noise_and_its_truth(own, others, tmp_path):
    out = corrupt(
        own,
        tmp_path / "noisy",
        symmetric=0.2,
        asymmetric=0.25,
        pairs={"cow": "ant"},
        foreign=0.1,
        foreign_source=others,
        seed=3,
    )
    assert sorted(path.name for path in out.iterdir()) == ["images.parquet", "truth.csv"]
    images = read(out, truth="truth")
    assert images.ids == own.ids
    assert images.class_names == own.class_names
    true = [name.split("/")[0] for name in own.ids]
    label = [images.class_names[c] for c in images.labels]
    strange = [row for row, name in enumerate(images.truth) if name not in own.class_names]
    wrong = [row for row in range(100) if label[row] != true[row]]
    assert len(strange) == 10
    assert {images.truth[row] for row in strange} <= {"car", "bus"}  # never ant: it is ours too
    assert len(wrong) == 20 + 5
    assert not set(wrong) & set(strange)  # no image has two kinds of noise
    reader, before = Reader(images.places), Reader(own.places)
    pictures = [reader.read(row) for row in range(100)]
    for row in range(100):
        if row in strange:
            assert Image.open(io.BytesIO(pictures[row])).getpixel((0, 0)) >= 100
        else:
            assert images.truth[row] == true[row]
            assert pictures[row] == before.read(row)
    # there are two candidates of each picture, and none is used twice
    assert max(pictures.count(pictures[row]) for row in strange) <= 2
    with open(out / "truth.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "label", "truth"]
    assert [tuple(row) for row in rows[1:]] == list(
        zip(images.ids, label, images.truth, strict=True)
    )


def test_equal_seeds_give_equal_sets_and_others_do_not(own, tmp_path):
    made = [
        corrupt(own, tmp_path / str(i), symmetric=0.3, seed=seed)
        for i, seed in enumerate((1, 1, 2))
    ]
    texts = [(path / "truth.csv").read_bytes() for path in made]
    tables = [(path / "images.parquet").read_bytes() for path in made]
    assert texts[0] == texts[1] != texts[2]
    assert tables[0] == tables[1] != tables[2]


def test_no_noise_is_a_copy(own, tmp_path):
    images = read(corrupt(own, tmp_path / "out"), truth="truth")
    assert (images.labels == own.labels).all()
    assert images.truth == tuple(own.class_names[c] for c in own.labels)


def test_a_matrix_takes_the_place_of_rates(own, tmp_path):
    cycle = np.roll(np.eye(3), 1, axis=1)
    images = read(corrupt(own, tmp_path / "out", matrix=cycle), truth="truth")
    assert (images.labels == (own.labels + 1) % 3).all()
    with pytest.raises(ConfigError, match="takes the place of symmetric and asymmetric rates"):
        corrupt(own, tmp_path / "no", matrix=cycle, symmetric=0.1)
    with pytest.raises(ConfigError, match="has 2 rows; expected one for each of the 3 classes"):
        corrupt(own, tmp_path / "no", matrix=np.eye(2))
    assert not (tmp_path / "no").exists()


def test_truth_that_is_known_already_is_kept(own, tmp_path):
    first = read(corrupt(own, tmp_path / "a", symmetric=0.5), truth="truth")
    second = read(corrupt(first, tmp_path / "b", symmetric=0.5, seed=9), truth="truth")
    assert second.truth == first.truth


def test_unlabeled_others_are_called_foreign(own, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "x.png").write_bytes(picture(200))
    images = read(
        corrupt(own, tmp_path / "out", foreign=0.05, foreign_source=read(flat)), truth="truth"
    )
    assert images.truth.count("foreign") == 5


def test_images_without_bytes_stay_in_the_set(own, tmp_path):
    Path(own.places.files[7]).unlink()
    images = read(corrupt(own, tmp_path / "out"))
    assert images.ids == own.ids
    with pytest.raises(DataError, match="no bytes in the table"):
        Reader(images.places).read(7)


def test_corrupt_says_what_it_lacks(own, others, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"pairs: no class 'ent'. Did you mean 'ant'\?"):
        corrupt(own, out, asymmetric=0.1, pairs={"ent": "bee"})
    with pytest.raises(ConfigError, match="pairs: 'ant' is paired with itself"):
        corrupt(own, out, asymmetric=0.1, pairs={"ant": "ant"})
    with pytest.raises(ConfigError, match=r"asymmetric noise of 0.1 needs pairs of classes"):
        corrupt(own, out, asymmetric=0.1)
    with pytest.raises(
        ConfigError, match=r"foreign noise of 0.1 needs another set to take images from"
    ):
        corrupt(own, out, foreign=0.1)
    with pytest.raises(
        ConfigError, match="foreign noise needs another set with images of none of the"
    ):
        corrupt(own, out, foreign=0.1, foreign_source=own)
    with pytest.raises(
        ConfigError, match=r"symmetric noise of 0.95 needs 95 images, but other noise"
    ):
        corrupt(own, out, foreign=0.1, foreign_source=others, symmetric=0.95)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "x.png").write_bytes(picture(200))
    with pytest.raises(DataError, match="no labels to corrupt. Name a set with one label an image"):
        corrupt(read(flat), out)
    assert not out.exists()


def test_an_out_that_is_not_empty_is_refused_and_an_empty_one_is_used(own, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="out: is not empty. Name a folder that does not exist yet"):
        corrupt(own, out)
    assert (out / "mine.txt").read_text() == "keep"
    (out / "mine.txt").unlink()
    assert len(read(corrupt(own, out))) == 100
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        RunError, match="cannot be written: Not a directory|cannot be written: File exists"
    ):
        corrupt(own, tmp_path / "file" / "out")


def test_a_copy_that_fails_leaves_nothing_behind(own, tmp_path, monkeypatch):
    before = sorted(tmp_path.iterdir())

    def stop(done: int, n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corrupt(own, tmp_path / "out", progress=stop)
    assert sorted(tmp_path.iterdir()) == before

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corrupt_module.pq, "ParquetWriter", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        corrupt(own, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_table_is_written_in_groups_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(corrupt_module, "_GROUP_BYTES", 1000)
    told: list[int] = []
    ids = [f"{i}" for i in range(50)]
    write_parquet(
        tmp_path / "t.parquet",
        ids,
        (bytes(100) for _ in ids),
        ["x"] * 49 + [None],
        progress=lambda done, n: told.append(done),
    )
    about = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [about.row_group(g).num_rows for g in range(about.num_row_groups)] == [10] * 5
    assert told == [10, 20, 30, 40, 50]
    images = read(tmp_path / "t.parquet")
    assert images.ids == tuple(ids)
    assert images.labels.tolist() == [0] * 49 + [-1]
    assert images.truth is None


def test_a_real_set_is_corrupted(shared_data, tmp_path):
    own = read(shared_data / "bears_web" / "bears96.parquet", label="label_name")
    others = read(shared_data / "ood32" / "ood32.parquet", label="class_name")
    out = corrupt(own, tmp_path / "out", symmetric=0.2, foreign=0.1, foreign_source=others)
    images = read(out, truth="truth")
    given_names = np.array(images.class_names)[images.labels]
    truth = np.array(images.truth)
    strange = ~np.isin(truth, images.class_names)
    assert strange.sum() == round(0.1 * len(own))
    assert ((given_names != truth) & ~strange).sum() == round(0.2 * len(own))
