from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

import reference_tags as slow
from labelsieve.data.tags.read import read_tags
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.veit import verify
from labelsieve.methods.veit.verify import (
    Round,
    Why,
    drawn,
    random_draw,
    stopping_advice,
    suggest,
    tag_quotas,
)

shapes = st.tuples(st.integers(1, 60), st.integers(1, 5), st.integers(0, 10**6))


def made_pairs(n=60, n_tags=5, seed=0, verified_rate=0.2):
    rng = np.random.default_rng(seed)
    often = np.linspace(0.8, 0.1, n_tags)
    asserted = rng.random((n, n_tags)) < often
    looked = rng.random((n, n_tags)) < verified_rate
    verified = np.where(looked, rng.choice([-1, 1], (n, n_tags)), 0).astype(np.int8)
    keep = rng.random(int(asserted.sum())).astype(np.float32)
    return keep, csr_array(asserted.astype(np.float32)), csr_array(verified)


def places(suggestions):
    return list(zip(suggestions.rows.tolist(), suggestions.columns.tolist(), strict=True))


@given(shapes, st.integers(1, 80), st.sampled_from(["learn", "fix"]))
def test_only_asserted_pairs_that_nobody_verified_are_asked_each_once(shape, n, mode):
    keep, asserted, verified = made_pairs(*shape)
    found = suggest(keep, asserted, verified, n, mode, seed=1)
    free = (asserted.toarray() > 0) & (verified.toarray() == 0)
    asked = places(found)
    assert len(set(asked)) == len(asked) == min(n, int(free.sum()))
    assert all(free[pair] for pair in asked)
    probability = np.full(asserted.shape, np.nan, np.float32)
    probability[asserted.nonzero()] = keep
    assert found.probability.tolist() == [probability[pair] for pair in asked]


def test_seven_in_ten_are_uncertain_and_three_random_in_any_beginning_of_the_list():
    keep, asserted, verified = made_pairs(400, 5)
    found = suggest(keep, asserted, verified, 100)
    assert (found.why == Why.RANDOM).sum() == 30
    assert (found.why == Why.UNCERTAIN).sum() == 70
    for n in (10, 20, 50):
        assert abs((found.why[:n] == Why.RANDOM).sum() - 0.3 * n) <= 1


def test_uncertain_pairs_are_the_most_uncertain_of_their_tag():
    keep, asserted, verified = made_pairs(400, 5)
    found = suggest(keep, asserted, verified, 100)
    doubtful = found.why == Why.UNCERTAIN
    chance = set(np.array(places(found), dtype="i,i")[~doubtful].tolist())
    rows, columns = asserted.nonzero()
    seen = verified.toarray()
    for tag in range(5):
        mine = [
            abs(float(k) - 0.5)
            for r, c, k in zip(rows.tolist(), columns.tolist(), keep, strict=True)
            if c == tag and not seen[r, c] and (r, c) not in chance
        ]
        asked = np.abs(found.probability[doubtful & (found.columns == tag)] - 0.5)
        np.testing.assert_allclose(np.sort(asked), np.sort(mine)[: len(asked)], atol=1e-6)


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 60)), min_size=1, max_size=8),
    st.integers(0, 300),
)
def test_quotas_go_by_the_root_and_what_a_tag_cannot_fill_goes_to_others(tags, n):
    n_asserted = [max(a, free) for a, free in tags]
    n_free = [free for _, free in tags]
    found = tag_quotas(np.array(n_asserted), np.array(n_free), n).tolist()
    assert sum(found) == min(n, sum(n_free))
    shares = slow.quotas(n_asserted, n_free, n)
    for quota, share, free in zip(found, shares, n_free, strict=True):
        assert 0 <= quota <= free
        assert abs(quota - share) < 1 + 1e-6


def test_rare_tags_get_more_than_their_share():
    keep, asserted, verified = made_pairs(2000, 2, verified_rate=0)
    counts = np.bincount(asserted.indices)
    found = suggest(keep, asserted, verified, 200)
    uncertain = np.bincount(found.columns[found.why == Why.UNCERTAIN])
    expected = np.sqrt(counts[1]) / np.sqrt(counts).sum()
    assert uncertain[1] / 140 == pytest.approx(expected, abs=0.01)
    assert uncertain[1] / 140 > 1.5 * counts[1] / counts.sum()


def test_to_fix_the_most_suspicious_come_first_and_none_is_drawn():
    keep, asserted, verified = made_pairs()
    found = suggest(keep, asserted, verified, 20, "fix")
    free = verify.values_at(verified, asserted) == 0
    np.testing.assert_array_equal(found.probability, np.sort(keep[free])[:20])
    assert (found.why == Why.SUSPICIOUS).all()
    assert found.drawn_to == 0
    assert not drawn(found.rows, found.columns, 0, found.drawn_to).any()


def test_pairs_without_a_probability_are_not_asked_about():
    keep, asserted, verified = made_pairs(verified_rate=0)
    keep[::2] = np.nan
    for mode in ("learn", "fix"):
        found = suggest(keep, asserted, verified, 1000, mode)
        assert len(found) == np.count_nonzero(~np.isnan(keep))
        assert not np.isnan(found.probability).any()


def test_the_same_seed_gives_the_same_list_and_another_another():
    keep, asserted, verified = made_pairs(400, 5)
    first, again, other = (suggest(keep, asserted, verified, 50, seed=s) for s in (1, 1, 2))
    assert places(first) == places(again)
    assert places(first) != places(other)


def test_pieces_of_any_size_give_the_same_list(monkeypatch):
    keep, asserted, verified = made_pairs(200, 5, 3)
    keep = np.round(keep, 1)  # with ties
    for mode in ("learn", "fix"):
        whole = suggest(keep, asserted, verified, 60, mode)
        monkeypatch.setattr(verify, "_BLOCK", 7)
        assert places(suggest(keep, asserted, verified, 60, mode)) == places(whole)
        monkeypatch.undo()


def answered(asserted, verified, suggestions):
    """Verified pairs after somebody said yes to all that was asked."""
    after = verified.toarray()
    after[suggestions.rows, suggestions.columns] = 1
    return csr_array(after)


def test_after_each_round_all_low_draws_are_verified_however_they_were_chosen():
    keep, asserted, verified = made_pairs(300, 5, verified_rate=0)
    rows, columns = asserted.nonzero()
    draws = random_draw(rows, columns, 4)
    for mode in ("learn", "fix", "learn", "learn"):
        found = suggest(keep, asserted, verified, 60, mode, seed=4)
        verified = answered(asserted, verified, found)
        if mode == "learn":
            low = draws <= found.drawn_to
            assert (verified.toarray()[rows, columns] == 1)[low].all()
            marked = drawn(found.rows, found.columns, 4, found.drawn_to)
            assert marked[found.why == Why.RANDOM].all()
    assert 50 < low.sum() < 120


def test_what_is_drawn_gives_an_unbiased_share_where_all_answers_do_not():
    errors, naive = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        asserted = csr_array((rng.random((4000, 3)) < 0.5).astype(np.float32))
        keep = rng.beta(2, 1, asserted.nnz).astype(np.float32)
        wrong = rng.random(asserted.nnz) > keep
        truth = csr_array(
            (wrong.astype(np.int8), asserted.indices, asserted.indptr), asserted.shape
        )
        verified = csr_array(asserted.shape, dtype=np.int8)
        for _ in range(3):
            found = suggest(keep, asserted, verified, 400, seed=seed)
            verified = answered(asserted, verified, found)
        rows, columns = verified.nonzero()
        absent = truth.toarray()[rows, columns] > 0
        sample = drawn(rows, columns, seed, found.drawn_to)
        errors.append(absent[sample].mean() - wrong.mean())
        naive.append(absent.mean() - wrong.mean())
    assert abs(np.mean(errors)) < 0.02
    assert np.mean(naive) > 0.06


def test_draws_are_uniform_and_independent_of_neighbors():
    rows, columns = np.repeat(np.arange(2000), 50), np.tile(np.arange(50), 2000)
    draws = random_draw(rows, columns, 0)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, 20, (0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 44  # chi-square of 19 degrees, p = .001
    grid = draws.reshape(2000, 50)
    for other in (np.roll(grid, 1, axis=0), np.roll(grid, 1, axis=1)):
        assert abs(np.corrcoef(grid.ravel(), other.ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(draws, random_draw(rows, columns, 1))[0, 1]) < 0.015


def test_the_table_to_fill_in_comes_in_batches_of_one_tag(tmp_path):
    keep, asserted, verified = made_pairs(100, 5)
    found = suggest(keep, asserted, verified, 40)
    ids, names = [f"im{row:03}" for row in range(100)], ["a", "b", "c", "d", "e"]
    found.write(tmp_path / "to_verify.csv", ids, names)
    with (tmp_path / "to_verify.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["image", "tag", "probability", "why", "present"]
    assert all(line["present"] == "" for line in lines)
    tags = [line["tag"] for line in lines]
    batches = [tags[0], *(b for a, b in zip(tags, tags[1:], strict=False) if a != b)]  # noqa: RUF007
    assert len(batches) == len(set(tags))
    sizes = [tags.count(tag) for tag in batches]
    assert sizes == sorted(sizes, reverse=True)
    expected = {
        (ids[row], names[column], Why(why).name.lower())
        for (row, column), why in zip(places(found), found.why, strict=True)
    }
    assert {(line["image"], line["tag"], line["why"]) for line in lines} == expected
    first = [place for place in places(found) if names[place[1]] == tags[0]]
    assert [line["image"] for line in lines[: len(first)]] == [ids[row] for row, _ in first]


def test_what_was_filled_in_is_taken_back_as_verified(tmp_path):
    source = tmp_path / "photos.csv"
    names = ["bird", "cat", "dog"]
    source.write_text(
        "image,labels\n"
        + "".join(f"{row:04},{'|'.join(names[: 1 + row % 3])}\n" for row in range(30))
    )
    tags = read_tags(source)
    keep = np.linspace(0, 1, tags.asserted.nnz).astype(np.float32)
    suggest(keep, tags.asserted, tags.verified, 12).write(
        tmp_path / "asked.csv", tags.ids, tags.tag_names
    )
    with (tmp_path / "asked.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for i, line in enumerate(lines):
        line["present"] = ("1", "0", "")[i % 3]  # a third is left blank
    with (tmp_path / "asked.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    after = read_tags(source, verified=tmp_path / "asked.csv")
    found = {
        (after.ids[row], after.tag_names[column], present)
        for row, column, present in zip(*(c.tolist() for c in after.verified_pairs()), strict=True)
    }
    assert found == {
        (line["image"], line["tag"], line["present"] == "1") for line in lines if line["present"]
    }
    assert len(found) == 8


def test_nothing_left_to_verify_is_an_empty_list(tmp_path):
    keep, asserted, _ = made_pairs()
    for mode in ("learn", "fix"):
        found = suggest(keep, asserted, csr_array(asserted, dtype=np.int8), 10, mode)
        assert len(found) == 0
        found.write(tmp_path / "none.csv", [], [])
        assert (tmp_path / "none.csv").read_text().count("\n") == 1
    nothing = csr_array((3, 2), dtype=np.float32)
    assert len(suggest(np.empty(0), nothing, csr_array((3, 2), dtype=np.int8), 5)) == 0


def test_what_cannot_be_asked_for_says_why():
    keep, asserted, verified = made_pairs()
    with pytest.raises(ConfigError, match="0 tags to verify; expected 1 or more"):
        suggest(keep, asserted, verified, 0)
    with pytest.raises(ConfigError, match="no mode 'repair' of what to verify; expected learn or"):
        suggest(keep, asserted, verified, 5, "repair")
    with pytest.raises(DataError, match="probabilities for .* asserted tags of images; expected"):
        suggest(keep[1:], asserted, verified, 5)


def test_a_flat_learning_curve_says_stop_and_a_rising_one_go_on():
    rising = [Round(300, 0.70), Round(600, 0.73), Round(900, 0.75), Round(1200, 0.77)]
    found = stopping_advice(rising)
    assert (found.stop, found.gain) == (False, pytest.approx(0.04))
    assert found.text == "Go on: the last 600 answers changed the score by +4.0 points."
    flat = [*rising, Round(1600, 0.772), Round(2000, 0.765)]
    found = stopping_advice(flat)
    assert found.stop
    assert found.text == (
        "More answers are hardly worth it: the last 800 answers changed the score by +0.2 points."
    )


def test_too_few_rounds_or_answers_say_nothing():
    assert stopping_advice([]).text == "Too early to say: 3 more rounds show how it goes on."
    two = [Round(300, 0.7), Round(600, 0.7)]
    assert stopping_advice(two) == (
        False, None, "Too early to say: 1 more round shows how it goes on.",
    )  # fmt: skip
    small = [Round(1000, 0.7), Round(1010, 0.7), Round(1020, 0.7)]
    assert not stopping_advice(small).stop
    assert stopping_advice(small).text.startswith("Too few new answers to say")
    again = [Round(300, 0.5), Round(300, 0.7), Round(600, 0.7), Round(600, 0.7)]
    assert stopping_advice(again).gain is None  # resumed without new answers: two rounds, not four
