"""The number of classes: merging by the neighbor graph, agreement of halves, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

import reference_number
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.scan.hierarchy import (
    Hierarchy,
    Run,
    agreement,
    crossing_of,
    grown,
    links_among,
    merged,
    principal,
)
from labelsieve.methods.scan.number import (
    Curves,
    Evidence,
    NumberSettings,
    judged,
    number_of_classes,
)
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Neighbors


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def groups(sizes: Sequence[int], dim: int = 32, apart: float = 0.8, seed: int = 0) -> NDArray:
    rng = np.random.default_rng(seed)
    centers = apart * rng.standard_normal((len(sizes), dim))
    return unit(np.repeat(centers, sizes, axis=0) + rng.standard_normal((sum(sizes), dim)))


def chains(n_chains: int, n: int, dim: int = 16, seed: int = 1) -> NDArray:
    """Long thin groups, each along a direction of its own, on unit rows that keep their shape."""
    rng = np.random.default_rng(seed)
    directions = unit(rng.standard_normal((n_chains, dim)))
    owner = np.repeat(np.arange(n_chains), n)
    along = rng.uniform(-6, 6, len(owner))[:, None]
    rows = 1.5 * rng.standard_normal((n_chains, dim))[owner] + along * directions[owner]
    rows += 0.25 * rng.standard_normal(rows.shape)
    rows = (rows - rows.mean(axis=0)) / np.sqrt(np.square(rows).sum(axis=1).mean()) / 2
    return unit(np.c_[rows, np.ones(len(rows))])


def found(rows: NDArray, seed: int = 0, n_neighbors: int = 20, **settings: object) -> Evidence:
    near = nearest_neighbors(rows, n_neighbors)
    return number_of_classes(rows, near, NumberSettings(**settings), seed=seed)


tables = st.integers(2, 7).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=n, max_size=n
    ).map(lambda rows: (np.array(rows) + np.array(rows).T).tolist())
)


@given(tables)
def test_merging_equals_the_slow_one_of_loops(links: list[list[int]]) -> None:
    tree, slow = merged(np.array(links)), reference_number.merges(links)
    assert [*zip(tree.kept.tolist(), tree.gone.tolist(), strict=True)] == [m[:2] for m in slow]
    assert tree.crossing == pytest.approx([m[2] for m in slow])
    assert tree.support[:-1] == pytest.approx([m[3] for m in slow])
    assert tree.support[-1] == 0


@given(tables)
def test_a_cut_has_as_many_clusters_as_asked_and_lies_within_the_next_coarser_one(
    links: list[list[int]],
) -> None:
    tree = merged(np.array(links))
    finer = tree.cut(len(links))
    assert finer.tolist() == list(range(len(links)))
    for n in range(len(links) - 1, 0, -1):
        coarser = tree.cut(n)
        assert sorted(set(coarser.tolist())) == list(range(n))
        assert len(set(zip(finer.tolist(), coarser.tolist(), strict=True))) == n + 1
        finer = coarser


def test_the_pair_with_most_links_for_its_chance_is_merged_first_not_the_one_with_most_links() -> (
    None
):
    # 0 and 1 are large and share 10 links, 2 and 3 are small and share 4
    links = np.array([[80, 10, 1, 0], [10, 80, 0, 1], [1, 0, 2, 4], [0, 1, 4, 2]])
    tree = merged(links)
    assert (tree.kept[0], tree.gone[0]) == (2, 3)
    assert tree.cut(2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([[9, 0], [0, 5]], 0.0),
        ([[4, 4], [4, 4]], 1.0),
        ([[8, 8], [8, 8]], 1.0),
        ([[0, 3], [3, 0]], 2.0),
        ([[0, 0], [0, 7]], 1.0),
    ],
)
def test_crossing_is_0_without_links_across_and_1_at_chance(
    links: list[list[int]], expected: float
) -> None:
    assert crossing_of(np.array(links, float)) == pytest.approx(expected)


@given(st.integers(0, 1000), st.integers(4, 12), st.integers(2, 4))
def test_agreement_is_the_adjusted_rand_index_of_each_cut(seed: int, n: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(2):
        links = rng.integers(0, 9, (n, n))
        runs.append(Run(rng.integers(0, n, 40), merged(links + links.T)))
    cuts = [[run.hierarchy.cut(k)[run.clusters] for run in runs] for k in range(2, most + 1)]
    expected = [adjusted_rand_score(*cut) for cut in cuts]
    assert agreement(*runs, most) == pytest.approx(expected)


def test_agreement_of_a_run_with_itself_is_1() -> None:
    links = np.random.default_rng(0).integers(0, 9, (9, 9))
    run = Run(np.arange(90) % 9, merged(links + links.T))
    assert agreement(run, run, 5) == pytest.approx(np.ones(4))


def test_principal_points_keep_distances_when_all_components_are_kept() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    sample = np.arange(0, 60, 2)
    points = principal(rows, sample, 5, 20, np.random.default_rng(1))
    before = np.linalg.norm(rows[sample][:, None] - rows[sample], axis=2)
    assert np.linalg.norm(points[:, None] - points, axis=2) == pytest.approx(before, abs=1e-4)
    fewer = principal(rows, sample, 2, 100, np.random.default_rng(1))
    assert fewer.shape == (30, 2)
    assert np.var(fewer[:, 0]) >= np.var(fewer[:, 1])


def test_links_that_leave_the_sample_are_marked() -> None:
    near = Neighbors(np.array([[1, 2], [0, 3], [3, 1], [2, 0]]), np.ones((4, 2), np.float32))
    assert links_among(near, np.array([0, 3])).tolist() == [[-1, -1], [-1, 0]]
    assert links_among(near, np.arange(4)) is near.indices


def test_a_run_learns_its_links_from_its_half_only() -> None:
    rows = groups([60, 60])
    links = nearest_neighbors(rows, 5).indices
    half = np.arange(0, 120, 2)
    other = links.copy()
    other[1::2] = 0
    runs = [grown(rows, e, half, 8, 60, np.random.default_rng(3)) for e in (links, other)]
    assert runs[0].clusters.tolist() == runs[1].clusters.tolist()
    assert runs[0].hierarchy.support.tolist() == runs[1].hierarchy.support.tolist()


@pytest.mark.parametrize(
    ("sizes", "apart"),
    [
        ([300, 300], 1.0),
        ([100, 100, 100], 1.2),
        ([200] * 7, 0.9),
        ([900, 700, 400, 250, 150, 80], 1.0),
        ([100] * 30, 1.0),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_number_of_separate_groups_is_found_and_clear(
    sizes: list[int], apart: float, seed: int
) -> None:
    evidence = found(groups(sizes, apart=apart, seed=seed), seed=seed)
    assert evidence.chosen == len(sizes)
    assert evidence.is_clear
    low, high = evidence.plausible
    assert low <= len(sizes) <= high
    assert high - low <= max(1, len(sizes) // 5)
    assert f"fall into {len(sizes)} groups" in evidence.sentence


def test_many_groups_are_found_among_many_small_clusters() -> None:
    evidence = found(groups([60] * 90, dim=48, apart=1.0))
    assert evidence.chosen == 90
    assert evidence.is_clear
    assert evidence.numbers[-1] >= 180


def test_long_thin_groups_are_found_where_k_means_cuts_across_them() -> None:
    rows = chains(6, 250)
    truth = np.repeat(np.arange(6), 250)
    means = KMeans(6, n_init=3, random_state=0).fit_predict(rows)
    assert adjusted_rand_score(truth, means) < 0.9
    evidence = found(rows)
    assert evidence.chosen == 6
    assert evidence.is_clear


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_a_single_cloud_has_no_clear_number_and_the_sentence_says_so(
    seed: int, decay: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2000, 32)) * np.arange(1, 33) ** -decay
    evidence = found(unit(np.c_[rows, np.full(2000, 2.0)]), seed=seed)
    assert not evidence.is_clear
    assert evidence.plausible[0] == 2
    assert evidence.plausible[1] > 20
    assert "do not say how many" in evidence.sentence


def test_groups_that_overlap_are_found_but_not_called_clear() -> None:
    evidence = found(groups([400] * 10, dim=64, apart=0.42))
    assert evidence.chosen == 10
    assert not evidence.is_clear
    assert "not a clear one" in evidence.sentence


def test_handwritten_digits_have_ten_classes_and_a_group_more() -> None:
    pixels, _ = load_digits(return_X_y=True)
    assert found(unit(pixels)).chosen in (10, 11)


def test_stability_is_1_at_the_true_number_of_far_groups_and_less_beyond_it() -> None:
    evidence = found(groups([200] * 5, apart=3.0))
    at = evidence.chosen - 2
    assert evidence.chosen == 5
    assert evidence.stability[at] == pytest.approx(1, abs=1e-9)
    assert evidence.stability[at + 1 : at + 20].max() < 0.97
    assert evidence.crossing[at] == pytest.approx(0, abs=1e-9)
    assert evidence.crossing[at + 1] > 0.2
    assert evidence.support[at] == pytest.approx(0.8, abs=2e-3)  # about 1 - 5 (1 / 5)^2
    assert evidence.support.argmax() == at


def test_the_same_seed_gives_the_same_evidence_and_another_one_another() -> None:
    rows = groups([150] * 4)
    assert found(rows, seed=5).to_dict() == found(rows, seed=5).to_dict()
    assert found(rows, seed=5).stability.tolist() != found(rows, seed=6).stability.tolist()


def test_a_sample_of_the_images_is_enough_and_rows_may_lie_on_disk(tmp_path: Path) -> None:
    rows = groups([600] * 5)
    np.save(tmp_path / "rows.npy", rows)
    on_disk = np.load(tmp_path / "rows.npy", mmap_mode="r")
    near = nearest_neighbors(rows, 20)
    settings = NumberSettings(n_sampled=1000, n_fitted=300)
    evidence = number_of_classes(on_disk, near, settings)
    assert evidence.chosen == 5
    assert evidence.numbers[-1] == 33  # of 1,000 images, one class for 30


def test_most_bounds_the_numbers_tried() -> None:
    rows = groups([60] * 12, apart=1.0)
    assert found(rows, most=8).numbers.tolist() == list(range(2, 9))
    assert found(rows, most=8).chosen <= 8
    assert found(rows, most=40).chosen == 12


def test_copies_of_a_few_images_do_not_stop_it() -> None:
    rows = np.repeat(groups([1] * 3, dim=4), 20, axis=0)
    evidence = found(rows, n_neighbors=10)
    assert 2 <= evidence.chosen <= evidence.numbers[-1]
    assert np.isfinite(evidence.score).all()


def test_progress_counts_the_runs_of_all_levels() -> None:
    rows, seen = groups([60] * 60, apart=1.0), []
    number_of_classes(
        rows, nearest_neighbors(rows, 10), NumberSettings(n_runs=3),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(i, 6) for i in range(1, 7)]


def test_evidence_survives_json() -> None:
    evidence = found(groups([100, 100, 100]))
    again = Evidence.from_dict(json.loads(json.dumps(evidence.to_dict())))
    assert again.to_dict() == evidence.to_dict()
    assert again.numbers.dtype == np.int64
    assert again.plausible == evidence.plausible


def curves(
    stability: list[float], crossing: list[float], runs: list[list[float]] | None = None
) -> Curves:
    n = len(stability)
    support = np.linspace(0.1, 0.2, n)
    return Curves(np.array(stability), np.array(runs or [crossing] * 4), support)


STEP = [0.05, 0.05, 0.05, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]  # splits into 2 ... 12
FLAT = [0.3] * 11


def test_the_number_before_the_step_of_the_crossing_is_chosen() -> None:
    evidence = judged([curves([0.9] * 6, STEP)], NumberSettings())
    assert (evidence.chosen, evidence.plausible, evidence.is_clear) == (4, (4, 4), True)
    step = np.arcsin(0.6**0.5) - np.arcsin(0.05**0.5)
    assert evidence.score == pytest.approx([0, 0, 0.9 * step, 0, 0, 0])
    assert evidence.crossing == pytest.approx(STEP[:6])


def test_a_step_on_which_halves_disagree_is_not_clear() -> None:
    evidence = judged([curves([0.5] * 6, STEP)], NumberSettings())
    assert (evidence.chosen, evidence.is_clear) == (4, False)


def test_runs_that_each_find_another_number_make_a_range_and_nothing_clear() -> None:
    runs = [[0.05] * n + [0.6] * (11 - n) for n in (2, 2, 3, 4, 5, 5)]  # of 3, 3, 4, 5, 6, 6
    evidence = judged([curves([0.9] * 6, [], runs)], NumberSettings())
    low, high = evidence.plausible
    assert low == 3
    assert high == 6
    assert not evidence.is_clear


def test_levels_that_each_speak_for_another_number_are_not_clear() -> None:
    early = [0.05] + [0.6] * 10
    both = judged([curves([0.9] * 6, STEP), curves([0.9] * 6, early)], NumberSettings())
    assert both.plausible == (2, 4)
    assert not both.is_clear
    assert judged([curves([0.9] * 6, STEP), curves([0.9] * 6, FLAT)], NumberSettings()).is_clear


def test_flat_evidence_falls_back_on_support_and_spans_what_is_about_as_stable() -> None:
    evidence = judged([curves([0.8, 0.6, 0.5, 0.3, 0.2, 0.1], FLAT)], NumberSettings())
    assert evidence.chosen == 7  # support rises up to it
    assert evidence.plausible == (2, 7)
    assert not evidence.is_clear
    assert evidence.score.tolist() == [0] * 6


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"most": 1}, "most is 1; expected at least 2, or 0 for the rule."),
        ({"most": -3}, "most is -3"),
        ({"n_runs": 1}, "n_runs is 1; expected at least 2."),
        ({"n_fitted": 10}, "n_fitted is 10; expected at least 40."),
        ({"clear_stability": 1.5}, "clear_stability is 1.5; expected 0 to 1."),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        NumberSettings(**settings)
    assert text in str(error.value)


def test_too_few_images_rows_not_finite_and_neighbors_of_another_set_are_told() -> None:
    rows = groups([50, 50])
    near = nearest_neighbors(rows, 5)
    few = nearest_neighbors(rows[:30], 5)
    with pytest.raises(DataError, match="30 images are too few .* at least 40"):
        number_of_classes(rows[:30], few)
    with pytest.raises(DataError, match="neighbors of 30 images, 5 each; .* 100 rows"):
        number_of_classes(rows, few)
    with pytest.raises(DataError, match=r"expected \(N, D\)"):
        number_of_classes(rows[0], near)
    broken = rows.copy()
    broken[7, 3] = np.nan
    with pytest.raises(DataError, match="not finite .* Leave these images out"):
        number_of_classes(broken, near)


def test_a_hierarchy_of_two_clusters_has_one_merge() -> None:
    tree = merged(np.array([[4, 1], [1, 4]]))
    assert isinstance(tree, Hierarchy)
    assert tree.crossing == pytest.approx([1 * 10 / 25])
    assert tree.support == pytest.approx([0.8 - 0.5, 0])
