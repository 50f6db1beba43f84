from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from labelsieve.cli import main
from labelsieve.data.tag_noise import (
    TagNoise,
    annotator,
    from_model,
    read_confusable,
    wrong_shares,
)
from labelsieve.data.tags.read import read_tags
from labelsieve.errors import ConfigError, DataError
from made_tag_files import written


def made_truth(seed: int = 0, n: int = 2000, n_tags: int = 5) -> csr_array:
    """Tags from frequent to rare: 40 % of the images down to 5 %."""
    rng = np.random.default_rng(seed)
    return csr_array((rng.random((n, n_tags)) < np.linspace(0.4, 0.05, n_tags)).astype(np.float32))


def counts(truth: np.ndarray, noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wrong and lost assertions of each tag."""
    return ((noisy > 0) & (truth == 0)).sum(0), ((noisy == 0) & (truth > 0)).sum(0)


@given(seed=st.integers(0, 10_000), low=st.floats(0, 0.5), extra=st.floats(0, 0.4),
       missing=st.floats(0, 1), model=st.booleans())  # fmt: skip
def test_counts_of_wrong_and_missing_tags_are_exact(seed, low, extra, missing, model):
    truth = made_truth(seed, n=120)
    settings = TagNoise(low=low, high=low + extra, missing=missing)
    n_right = truth.toarray().astype(bool).sum(0)
    shares = wrong_shares(n_right, settings, np.random.default_rng(seed))
    assert ((low <= shares) & (shares <= low + extra)).all()
    rng = np.random.default_rng(seed)
    scores = np.random.default_rng(seed).normal(size=truth.shape)
    noisy = from_model(truth, scores, settings, rng) if model else annotator(truth, settings, rng)
    wrong, lost = counts(truth.toarray(), noisy.toarray())
    for c, n in enumerate(n_right.tolist()):
        assert wrong[c] == min(round(n * shares[c] / (1 - shares[c])), int(0.7 * (120 - n)))
        assert lost[c] == round(missing * n)
    assert set(noisy.data.tolist()) <= {1.0}
    assert noisy.has_canonical_format


def test_frequent_tags_are_cleaner_and_jitter_stays_within_the_range():
    n = np.array([5, 500, 50])
    still = wrong_shares(n, TagNoise(jitter=0), np.random.default_rng(0))
    assert still.tolist() == pytest.approx([0.8, 0.2, 0.5])
    many = np.array([wrong_shares(n, TagNoise(), np.random.default_rng(s)) for s in range(200)])
    assert many.min() == 0.2
    assert many.max() == 0.8
    assert many[:, 2].min() < 0.41
    assert many[:, 2].min() >= 0.4


def test_sixty_percent_of_wrong_tags_are_on_confusable_images():
    truth = made_truth()
    dense = truth.toarray() > 0
    noisy = annotator(truth, TagNoise(), np.random.default_rng(1), {4: [2, 3]}).toarray() > 0
    wrong = noisy[:, 4] & ~dense[:, 4]
    alike = dense[:, 2] | dense[:, 3]
    rest = round(wrong.sum() * 0.4)  # drawn among all others, alike ones as well
    n_alike = int((wrong & alike).sum())
    left = (~dense[:, 4]).sum() - (wrong.sum() - rest)
    expected = (
        wrong.sum() - rest + rest * ((alike & ~dense[:, 4]).sum() - wrong.sum() + rest) / left
    )
    assert n_alike >= round(wrong.sum() * 0.6)
    assert abs(n_alike - expected) < 4 * np.sqrt(rest / 4)
    only = annotator(truth, TagNoise(on_confusable=1.0), np.random.default_rng(1), {4: [2, 3]})
    assert not ((only.toarray()[:, 4] > 0) & ~dense[:, 4] & ~alike).any()


def test_too_few_confusable_images_are_filled_up_from_the_others():
    truth = np.zeros((100, 2), np.float32)
    truth[:40, 0] = 1
    truth[40:42, 1] = 1
    settings = TagNoise(low=0.5, high=0.5, missing=0, on_confusable=1)
    noisy = annotator(csr_array(truth), settings, np.random.default_rng(0), {0: [1]}).toarray()
    assert noisy[40:42, 0].all()
    assert noisy[:, 0].sum() == 80


def test_a_model_errs_where_its_scores_say_and_temperature_softens_it():
    truth = made_truth()
    dense = truth.toarray() > 0
    scores = np.random.default_rng(3).normal(size=dense.shape)
    means = []
    for temperature in (1e-6, 1.0, 1e6):
        settings = TagNoise(temperature=temperature)
        noisy = from_model(truth, scores, settings, np.random.default_rng(0)).toarray() > 0
        wrong, lost = noisy & ~dense, ~noisy & dense
        means.append((scores[wrong].mean(), scores[lost].mean()))
        if temperature == 1e-6:  # the highest scores, and the lowest
            for c in range(dense.shape[1]):
                others = ~noisy[:, c] & ~dense[:, c]
                assert scores[wrong[:, c], c].min() > scores[others, c].max()
                assert scores[lost[:, c], c].max() < scores[noisy[:, c] & dense[:, c], c].min()
    assert means[0][0] > means[1][0] > means[2][0]
    assert means[0][1] < means[1][1] < means[2][1]
    assert abs(means[2][0]) < 0.1


def test_a_function_gives_the_same_as_its_matrix():
    truth = made_truth(n=200)
    scores = np.random.default_rng(3).normal(size=truth.shape)
    each = [
        from_model(truth, given, TagNoise(), np.random.default_rng(5))
        for given in (scores, lambda c: scores[:, c])
    ]
    assert (each[0] != each[1]).nnz == 0


def test_equal_seeds_give_equal_tags_and_others_do_not():
    truth = made_truth()
    first, same, other = (
        annotator(truth, TagNoise(), np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert (first != same).nnz == 0
    assert (first != other).nnz > 0


def test_tags_that_no_image_has_stay_without():
    truth = csr_array(np.array([[1, 0], [1, 0], [0, 0], [0, 0]], np.float32))
    assert annotator(truth, TagNoise(), np.random.default_rng(0)).toarray()[:, 1].sum() == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": 0.9}, "wrong shares of tags from 0.9 to 0.8"),
        ({"high": 1.0}, r"expected two numbers in \[0, 1\)"),
        ({"missing": 2}, "missing is 2; expected 0 to 1"),
        ({"temperature": 0}, "temperature is 0; expected more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], words: str):
    with pytest.raises(ConfigError, match=words):
        TagNoise(**changes)


def test_scores_of_another_shape_or_not_finite_are_refused():
    truth, rng = made_truth(n=10), np.random.default_rng(0)
    with pytest.raises(DataError, match=r"scores of shape \(10, 4\); expected a row for each"):
        from_model(truth, np.zeros((10, 4)), TagNoise(), rng)
    with pytest.raises(DataError, match="not finite"):
        from_model(truth, np.full((10, 5), np.nan), TagNoise(), rng)


def test_confusable_tags_are_read_by_name(tmp_path: Path):
    path = written(tmp_path, "c.csv", "tag,confused_with", "cat,dog|fox", "cat,sea", "sea,dog")
    assert read_confusable(path, ["cat", "dog", "fox", "sea"]) == {0: [1, 2, 3], 3: [1]}
    with pytest.raises(ConfigError, match="line 2: no tag 'fox'"):
        read_confusable(path, ["cat", "dog", "sea"])
    with pytest.raises(DataError, match="expected a first line 'tag,confused_with'"):
        read_confusable(written(tmp_path, "d.csv", "a,b"), ["cat"])


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    lines = [
        f"{i:03d}.jpg,{'sky|' if i % 2 else ''}{'cat' if i % 5 else 'dog'}" for i in range(100)
    ]
    written(tmp_path, "000.jpg", "bytes")
    return written(tmp_path, "t.csv", "image,labels", *lines)


def ran(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.output if done.exit_code == 0 else f"exit {done.exit_code}: {done.output}"


def test_the_command_writes_tags_with_their_truth(tmp_path: Path, tagged: Path):
    out = tmp_path / "noisy"
    said = ran("corrupt", tagged, "--out", out, "--tag-false-positives", "0.2:0.5", "--json")
    about = json.loads(said[said.index("{") :])
    found = read_tags(out / "images.parquet", truth="truth")
    assert found.truth is not None
    right = found.asserted.toarray() * found.truth.toarray()
    assert about["n_images"] == len(found) == 100
    assert about["n_asserted"] == found.asserted.nnz
    assert about["n_wrong"] == found.asserted.nnz - right.sum() > 20
    assert about["n_missing"] == found.truth.nnz - right.sum() == 15  # 5 + 2 + 8 of 50, 20 and 80
    clean = read_tags(tagged)
    assert (found.truth != clean.asserted).nnz == 0
    table = pq.read_table(out / "images.parquet")
    assert table["image"][0].as_py() == b"bytes\n"
    assert (out / "truth.csv").read_text().startswith('"image","labels","truth"')


def test_the_command_takes_a_models_scores_and_confusable_tags(tmp_path: Path, tagged: Path):
    np.save(tmp_path / "s.npy", np.random.default_rng(0).normal(size=(100, 3)))
    words = ran("corrupt", tagged, "--out", tmp_path / "a", "--from-model", tmp_path / "s.npy")
    assert "100 images" in words
    table = written(tmp_path, "c.csv", "tag,confused_with", "dog,cat")
    words = ran(
        "corrupt", tagged, "--out", tmp_path / "b", "--confusable", table, "--tag-missing", 0
    )
    assert "0 right ones are missing" in words


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tag-missing", "0.1", "--symmetric", "0.2"], "does not go with --symmetric"),
        (["--tag-false-positives", "x"], "expected LOW:HIGH, such as 0.2:0.8"),
        (["--tag-false-positives", "0.8:0.2"], "the lower first"),
        (["--from-model", "none.npy"], "cannot be read as .npy"),
    ],
)
def test_the_command_refuses_what_does_not_go_together(
    tmp_path: Path, tagged: Path, options, words
):
    said = ran("corrupt", tagged, "--out", tmp_path / "out", *options)
    assert said.startswith("exit ")
    assert words in said
    assert not (tmp_path / "out").exists()
