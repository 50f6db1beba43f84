from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labelsieve.records.tag_findings import TagVerdict
from labelsieve.report.tag_evaluation import tag_evaluation
from labelsieve.report.tag_metrics import score_tags
from labelsieve.report.tag_rows import METHODS, never_verified, worst_tags
from labelsieve.report.tag_terminal import (
    N_NEVER,
    N_WORST,
    terminal_tag_evaluation,
    terminal_tag_scores,
    terminal_tags,
)
from made_tagged import made_methods, made_rows, made_tag_set, made_tagged
from test_table import printed

KEPT, REMOVED, ADDED, REVIEW = TagVerdict


def flat(renderable, width=100):
    return " ".join(printed(renderable, width).split())


def points(gain):
    return f"{100 * gain:+.1f}".replace("-", "\N{MINUS SIGN}")


@pytest.fixture(scope="module")
def made():
    tag_set = made_tag_set(300, 9)
    return tag_set, made_tagged(tag_set, warnings=("few",))


def test_a_cleaning_shows_warnings_counts_methods_and_the_worst_tags(made):
    tag_set, tagged = made
    scores, rows = made_methods(tag_set), made_rows(tagged)
    text = flat(terminal_tags(tagged, scores, rows))
    assert "warning few" in text
    assert f"{tag_set.asserted.nnz:,} tags of 300 images, 9 different" in text
    for verdict in (KEPT, REMOVED, REVIEW):
        n = tagged.count(verdict)
        assert f"{verdict.name.lower()} {n:,} {100 * n / tag_set.asserted.nnz:.1f} %" in text
    assert "added 0 –" in text
    assert f"{tagged.cleaned().nnz:,} tags stay: kept and added ones" in text
    chosen = scores["default"]
    n = int(chosen.n_absent.sum() + chosen.n_present.sum())
    assert f"wrong, of {n} verified given tags that were not learned from:" in text
    assert f"{100 * (1 - chosen.precision_kept):.1f} % (" in text
    assert f"right ones 100.0 % are given and {100 * chosen.recall_kept:.1f} % stay" in text
    table = text.partition("Most often wrong")[2].partition("never verified")[0]
    worst = worst_tags(rows)
    assert [row.name in table for row in worst] == [i < N_WORST for i in range(len(worst))]
    first = worst[0]
    assert f"{first.name} {first.n_asserted} {first.n_looked} {100 * first.share:.1f} %" in table
    assert text.endswith("never verified: 1 tag (tag 8)")


def test_tags_that_nobody_verified_are_said_to_stay_only_where_they_do():
    tag_set = made_tag_set(50, 3)
    for threshold, said in ((0.0, "never verified, all stay: 1 tag"), (0.5, "never verified: 1")):
        tagged = made_tagged(tag_set, thresholds=np.array([0.5, 0.5, threshold]))
        assert said in flat(terminal_tags(tagged, {}, made_rows(tagged)))


def test_methods_are_shown_with_what_they_gain_over_the_tags_as_given(made):
    scores = made_methods(made[0])
    text = flat(terminal_tag_scores(scores))
    base = scores["noisy"]
    assert f"tags as given {100 * base.map:.1f} {100 * base.ap_all:.1f}" in text
    for method in ("biases", "default"):
        one = scores[method]
        assert (
            f"{METHODS[method]} {100 * one.map:.1f} {points(one.map - base.map)} "
            f"{100 * one.ap_all:.1f} {points(one.ap_all - base.ap_all)}"
        ) in text
    assert "line of biases only" in text
    alone = flat(terminal_tag_scores({"default": scores["default"]}))
    assert "gain" not in alone
    assert "MAP, all images" not in text
    full = {"default": replace(scores["default"], ap_full=np.full(9, 0.125))}
    assert "12.5" in flat(terminal_tag_scores(full)).partition("MAP, all images")[2]


def test_a_cleaner_scored_on_given_tags_only_gains_nothing_over_lines_of_all_pairs():
    values, tags = np.array([0.9, 0.4, 0.8, 0.3]), np.zeros(4, np.int64)
    present = np.array([True, False, True, False])
    whole = score_tags(values, tags, present, ("sea",))
    given = score_tags(values[:3], tags[:3], present[:3], ("sea",))
    methods = {"noisy": whole, "default: cleaner": given, "default": replace(whole)}
    text = flat(terminal_tag_scores(methods))
    assert "gates: cleaner 100.0 100.0 gates 100.0 +0.0 100.0 +0.0" in text
    assert "a cleaner ranks given tags only" in text
    found = tag_evaluation({"a": methods, "b": methods})
    assert set(found.gains) == {"default"}
    assert set(found.over_runs) == set(methods)
    assert "a cleaner ranks given tags only" in flat(terminal_tag_evaluation(found))
    same = {**methods, "default: cleaner": whole}
    assert "ranks given" not in flat(terminal_tag_scores(same))
    assert set(tag_evaluation({"a": same}).gains) == {"default: cleaner", "default"}


def test_the_truth_alone_says_how_many_are_wrong_and_ranks_no_method():
    tag_set = made_tag_set(30, 3)
    tagged = made_tagged(tag_set)
    nothing = score_tags(np.empty(0), np.empty(0, int), np.empty(0, bool), tag_set.tag_names)
    given, kept = tag_set.asserted, tagged.cleaned()
    scores = {"noisy": nothing.against_truth(None, given, given),
              "default": nothing.against_truth(None, given, kept)}  # fmt: skip
    text = flat(terminal_tags(tagged, scores))
    assert f"wrong, of {given.nnz} given tags, by the truth: 0.0 % as given, 0.0 % of" in text
    assert f"100.0 % are given and {100 * kept.nnz / given.nnz:.1f} % stay" in text
    assert "Methods" not in text


def test_without_verified_tags_nobody_knows_and_unverified_tags_are_cut_off():
    tag_set = made_tag_set(300, 30, verified=0)
    tagged = made_tagged(tag_set)
    rows = made_rows(tagged)
    text = flat(terminal_tags(tagged, {}, rows))
    assert "nobody knows: none was verified (--verified FILE)" in text
    assert "Methods" not in text
    assert "Most often wrong" not in text
    named = ", ".join(row.name for row in never_verified(rows)[:N_NEVER])
    assert text.endswith(f"30 tags ({named} and {30 - N_NEVER} more)")


def test_without_scores_the_probabilities_give_an_estimate(made):
    text = flat(terminal_tags(made[1]))
    assert "wrong, if the probabilities hold: " in text
    assert "never verified" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_figures_are_never_cut_off(made, width):
    tag_set, tagged = made
    names = tuple(f"a tag with a very long name that goes on, {c}" for c in range(9))
    tag_set, tagged = replace(tag_set, tag_names=names), replace(tagged, tag_names=names)
    scores, rows = made_methods(tag_set), made_rows(tagged)
    text = flat(terminal_tags(tagged, scores, rows), width)
    for one in scores.values():
        for name in ("map", "ap_all", "precision_kept", "recall_kept"):
            assert f"{100 * one.measures()[name]:.1f}" in text
    for row in worst_tags(rows)[:N_WORST]:
        assert f"{100 * row.share:.1f} %" in text
    runs = {f"seed-{s}": made_methods(tag_set, s) for s in range(3)}
    found = tag_evaluation(runs)
    text = flat(terminal_tag_evaluation(found), width)
    for methods in runs.values():
        for one in methods.values():
            assert f"{100 * one.map:.1f}" in text
    for spreads in found.over_runs.values():
        assert f"{100 * spreads['map'].mean:.1f} ± {100 * spreads['map'].std:.1f}" in text
    for gains in found.gains.values():
        one = gains["map"]
        said = f"{points(one.spread.mean)} ± {100 * one.spread.std:.1f} ({one.n_better}/3)"
        assert said in text


def test_one_run_has_no_spread(made):
    text = flat(terminal_tag_evaluation(tag_evaluation({"a": made_methods(made[0])})))
    assert "a, in %" in text
    assert "±" not in text
    assert "Over" not in text


def test_runs_without_the_baseline_have_no_gains(made):
    runs = {
        name: {"default": made_methods(made[0], seed)["default"]}
        for seed, name in enumerate(("a", "b"))
    }
    text = flat(terminal_tag_evaluation(tag_evaluation(runs)))
    assert "Over 2 runs" in text
    assert "gates" in text
    assert "/2)" not in text
