"""The benchmark of tags: its features, its splits and what it makes of scores; nothing learns."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from labelsieve.report.tag_metrics import score_tags

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import tag_bars
import tag_features
import tags


def plain(red: int, green: int, blue: int) -> np.ndarray:
    """One image of one color, (1, 3, 64, 64)."""
    color = np.array([red, green, blue], np.uint8)
    return np.broadcast_to(color[None, :, None, None], (1, 3, 64, 64)).copy()


@pytest.mark.parametrize(
    ("color", "hue_bin"), [((255, 0, 0), 0), ((0, 255, 0), 2), ((0, 0, 255), 5)]
)
def test_colors_of_a_plain_image_are_its_hue_and_value(color, hue_bin):
    found = tag_features.colors(plain(*color)).reshape(16, 18)
    expected = np.zeros(18)
    expected[hue_bin] = 1  # saturation
    expected[8 + 3] = 1  # the brightest quarter
    expected[12:15] = np.array(color) / 255
    assert found == pytest.approx(np.tile(expected, (16, 1)), abs=1e-4)


def test_colors_are_those_of_each_cell():
    image = plain(0, 0, 0)
    image[:, :, :16, 16:32] = 255
    means = tag_features.colors(image).reshape(16, 18)[:, 12]
    assert means.tolist() == [0, 1] + [0] * 14
    image[:, :, :8, 16:32] = 0
    assert tag_features.colors(image).reshape(16, 18)[1, 15:] == pytest.approx([0.5] * 3)


def test_edges_of_stripes_run_in_one_direction():
    across, down = plain(0, 0, 0), plain(0, 0, 0)
    across[..., (np.arange(64) // 4) % 2 == 1] = 200
    down[:, :, (np.arange(64) // 4) % 2 == 1] = 200
    by_bin = [tag_features.edges(image).reshape(64, 9).sum(axis=0) for image in (across, down)]
    assert by_bin[0].argmax() == 0  # the contrast goes along the row
    assert by_bin[1].argmax() == 4  # at 90 degrees of 180
    for found in by_bin:
        assert found.max() == pytest.approx(found.sum())
        assert found.max() <= 64  # each cell has unit length
    assert not tag_features.edges(plain(9, 9, 9)).any()


def test_principal_directions_come_widest_first_and_power_evens_them_out():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 3)) * [1.0, 9.0, 3.0]
    wide = tag_features.principal(rows.astype(np.float32), 2, power=0.0)
    even = tag_features.principal(rows.astype(np.float32), 2, power=1.0)
    assert wide.std(axis=0)[0] / wide.std(axis=0)[1] == pytest.approx(3, rel=0.1)
    assert even.std(axis=0) == pytest.approx([1, 1], rel=0.01)
    assert abs(np.corrcoef(wide[:, 0], rows[:, 1])[0, 1]) > 0.99


# Splits


@pytest.fixture(scope="module")
def photos() -> tags.Photos:
    from conftest import SHARED_DATA

    if not SHARED_DATA.is_dir():
        pytest.skip(f"no image sets at {SHARED_DATA}; this test needs real ones")
    return tags.photos(SHARED_DATA)


def case(name: str, photos: tags.Photos, seed: int = 0) -> tags.Case:
    return tags.case(name, photos, np.zeros((len(photos.split), 1), np.float32), seed)


@pytest.mark.parametrize("name", tags.SETS)
def test_a_case_has_parts_without_overlap_and_verifies_only_what_is_asserted(photos, name):
    on = case(name, photos)
    parts = np.concatenate([on.learned, on.verified, on.scored])
    assert len(np.unique(parts)) == len(parts) == len(on.tags) == len(on.features)
    assert len(on.verified) == tags.N_VERIFIED[name]
    verified = on.tags.verified
    asserted = on.tags.asserted[:, on.known]
    assert verified.nnz == asserted.nnz  # every given tag of the known ones, and no other
    present = csr_array(verified > 0)
    assert (present.multiply(on.tags.truth) != present).nnz == 0
    assert (csr_array(verified < 0).multiply(on.tags.truth)).nnz == 0
    assert on.known.sum() == 14
    again, other = case(name, photos), case(name, photos, 1)
    assert again.tags.fingerprint() == on.tags.fingerprint()
    assert np.array_equal(again.verified, on.verified)
    assert not np.array_equal(other.verified, on.verified)


def test_the_real_pair_has_its_own_noise_and_ten_tags_that_nobody_verified(photos):
    on = case("primary", photos)
    assert on.tags.never_verified.sum() == 10
    assert 0.25 < (on.tags.verified.data < 0).mean() < 0.35
    assert (len(on.scored), len(on.learned)) == (4000, 7176)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("synthetic", 0.3, 0.45), ("low-noise", 0.1, 0.17)]
)
def test_made_up_noise_is_as_high_as_it_is_said_to_be(photos, name, low, high):
    on = case(name, photos)
    assert low < (on.tags.verified.data < 0).mean() < high
    assert (len(on.scored), len(on.tags)) == (2493, 10176)
    dropped = 1 - (on.tags.verified > 0).sum() / on.tags.truth.sum()
    assert dropped == pytest.approx(0.1, abs=0.01)


def test_the_oracle_is_told_the_truth_and_keeps_what_nobody_verified(photos):
    on = case("primary", photos)
    told = tags.told_all(on).asserted.toarray()
    assert np.array_equal(told[:, on.known], on.tags.truth.toarray()[:, on.known])
    assert np.array_equal(told[:, ~on.known], on.tags.asserted.toarray()[:, ~on.known])


def test_pairs_that_go_leave_the_matrix_they_came_from_as_it_was():
    pairs = csr_array(np.array([[1, 1, 0], [0, 1, 1]], np.float32))
    found = tags.with_values(pairs, np.array([True, False, False, True]))
    assert found.toarray().tolist() == [[1, 0, 0], [0, 0, 1]]
    assert pairs.nnz == 4


# Bars


def result(ap: tuple[float, ...], f1: float = 0.9) -> dict:
    """What a side scored, with given scores of four pairs of two tags; all its tags are kept."""
    values = np.array(ap)
    scored = score_tags(
        values, np.array([0, 0, 1, 1]), np.array([True, False, True, False]), ("a", "b"),
        kept=np.ones(4, bool),
    )  # fmt: skip
    table = scored.to_dict()
    cleaner = {**table, "f1_kept_full": f1, "precision_kept_full": f1, "recall_kept_full": f1}
    return {
        "tagger": {**table, "map_full": 0.5}, "cleaner": cleaner, "given f1": 0.8,
        "never verified, kept": 1.0, "cpu s": 1.0,
    }  # fmt: skip


# Right pairs at ranks 1 and 2, 1 and 3, 1 and 4, 3 and 4: AP_all 1, .83, .75, .42.
BEST, GOOD = (0.9, 0.1, 0.8, 0.2), (0.9, 0.3, 0.25, 0.2)
POOR, WORST = (0.9, 0.8, 0.1, 0.5), (0.1, 0.9, 0.05, 0.8)


def test_bars_say_which_order_holds_and_in_how_many_runs():
    right = {"paper": result(BEST), "clean": result(GOOD), "mixed": result(POOR),
             "noisy": result(WORST)}  # fmt: skip
    swapped = {**right, "mixed": right["noisy"], "noisy": right["mixed"]}
    found = {bar.what: bar for bar in tag_bars.bars("synthetic", "described", {"0": right})}
    assert found["paper > clean, AP_all"].met
    assert found["clean > mixed, AP_all"] == ("clean > mixed, AP_all", True, "1/1: 8.33")
    assert found["mixed > noisy, AP_all"].met
    runs = {"0": right, "1": swapped}
    both = {bar.what: bar for bar in tag_bars.bars("synthetic", "described", runs)}
    assert not both["mixed > noisy, AP_all"].met
    assert both["mixed > noisy, AP_all"].found.startswith("1/2")


def test_bars_of_cleaned_tags_compare_with_given_ones_and_cleanlab():
    runs = {"0": {"default": result(BEST, 0.85), "paper": result(GOOD, 0.75),
                  "cleanlab": result(WORST, 0.9)}}  # fmt: skip
    found = {bar.what.split(" >=")[0]: bar for bar in tag_bars.bars("synthetic", "", runs)}
    assert found["default - given, F1 of tags"].met
    assert not found["paper - given, F1 of tags"].met
    assert not found["default - cleanlab, F1 of tags"].met
    assert found["default: recall of true tags, %"].met  # all are kept
    assert not any("aim" in what or "noisy" in what for what in found)


def test_harm_at_low_noise_is_the_only_bar_there_and_a_third_of_a_point_is_allowed():
    runs = {"0": {"noisy": result(GOOD), "paper": result(GOOD), "mixed": result(WORST)}}
    found = {bar.what: bar.met for bar in tag_bars.bars("low-noise", "described", runs)}
    assert found == {
        "paper - noisy, AP_all >= -0.3": True, "mixed - noisy, AP_all >= -0.3": False
    }  # fmt: skip


def test_the_table_has_a_row_a_side_with_gains_over_noisy():
    runs = {seed: {"noisy": result(POOR), "paper": result(BEST)} for seed in ("0", "1")}
    title, _, noisy, paper = tag_bars.table("made", runs)
    assert "2 seeds (0, 1)" in title
    gap = 100 * (runs["0"]["paper"]["tagger"]["ap_all"] - runs["0"]["noisy"]["tagger"]["ap_all"])
    assert f"{gap:+.2f}" in paper
    assert "+" not in noisy


def test_a_bar_asks_for_the_mean_over_runs():
    assert tag_bars.at_least("x", [1.0, 3.0], 2.0) == ("x >= 2", True, "2.00: 1.00 3.00")
    assert not tag_bars.at_least("x", [1.0, 2.9], 2.0).met
