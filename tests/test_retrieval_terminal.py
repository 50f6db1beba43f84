from __future__ import annotations

import json
import statistics
from dataclasses import replace

import numpy as np
import pytest

from labelsieve.errors import DataError
from labelsieve.records import Verdict
from labelsieve.report.retrieval_evaluation import (
    heading,
    measures,
    over_seeds,
    retrieval_evaluation,
)
from labelsieve.report.retrieval_metrics import score_retrieval
from labelsieve.report.retrieval_terminal import (
    terminal_retrieval,
    terminal_retrieval_evaluation,
    terminal_retrieval_scores,
)
from made_findings import made_findings, random_findings
from made_retrieval import made_scores, retrieval_epochs
from test_table import printed

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict


def flat(renderable, width=100):
    return " ".join(printed(renderable, width).split())


def nothing():
    """Scores of a test set where no image has a mate."""
    return score_retrieval(np.eye(3, dtype=np.float32), np.arange(3))


def test_a_training_shows_warnings_verdicts_scores_and_both_stages():
    findings = made_findings([CLEAN] * 3 + [MISLABELED, BROKEN], [0] * 5, warnings=("few",))
    first, last = made_scores(seed=1, skill=0.3), made_scores(seed=1)
    stages = {"train": first, "second": last}
    text = flat(terminal_retrieval(findings, last, stages=stages))
    assert "warning few" in text
    assert "clean 3 60.0 %" in text
    assert "broken: 1 that cannot be read, such as 0004.png" in text
    low, high = (100 * end for end in last.interval)
    share = 100 * last.precision_at_1
    assert f"Precision@1 {share:.1f} % ({low:.1f}–{high:.1f}) on 60 test images of 6" in text
    assert f"Recall@2 {100 * last.recall_at[2]:.1f} %" in text
    assert f"MAP@R {100 * last.map_at_r:.1f} %" in text
    table = text.partition("stage by stage")[2]
    figures = [f"{100 * value:.1f}" for value in measures(first).values()]
    assert f"first training {' '.join(figures)}" in table
    assert "second training" in table


def test_one_stage_needs_no_table_of_stages():
    scores = made_scores()
    text = flat(terminal_retrieval_scores(scores, stages={"train": scores}))
    assert "stage" not in text
    assert flat(terminal_retrieval_scores(scores)) == text


def test_the_best_epoch_on_the_test_images_is_only_to_compare_with():
    scores = replace(made_scores(), precision_at_1=0.4)
    history = {"train": retrieval_epochs()}
    text = flat(terminal_retrieval_scores(scores, history=history))
    assert "only to compare with: Precision@1 90.0 % after epoch 8" in text
    better = replace(scores, precision_at_1=0.95)
    assert "only to compare" not in flat(terminal_retrieval_scores(better, history=history))


def test_the_best_epoch_is_that_of_the_stage_that_counts():
    scores = replace(made_scores(), precision_at_1=0.2)
    history = {"train": retrieval_epochs(), "second": [{"test_precision_at_1": 0.25, "epoch": 2}]}
    stages = {"train": scores, "second": scores}
    text = flat(terminal_retrieval_scores(scores, stages=stages, history=history))
    assert "Precision@1 25.0 % after epoch 3" in text


def test_images_without_a_mate_are_counted():
    rows = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    text = flat(terminal_retrieval_scores(score_retrieval(rows, np.array([0, 0, 1, 2]))))
    assert "on 2 test images of 1 class" in text
    assert "that are no queries: 2 without another of their class" in text


def test_scores_of_nothing_say_so_and_no_test_set_is_told_apart():
    assert "not one can be read and has another" in flat(terminal_retrieval_scores(nothing()))
    text = flat(terminal_retrieval(made_findings([CLEAN], [0]), None))
    assert "only test images tell (--test IMAGES)" in text
    assert "Precision" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_figures_are_never_cut_off(width):
    runs = {f"a-run-with-a-long-name-{s}": made_scores(seed=s) for s in range(3)}
    found = retrieval_evaluation(runs)
    text = flat(terminal_retrieval_evaluation(found), width)
    for scores in runs.values():
        for value in measures(scores).values():
            assert f"{100 * value:.1f}" in text
    for name, spread in found.over_runs.items():
        assert heading(name) in text
        assert f"{100 * spread.mean:.1f} ± {100 * spread.std:.1f} %" in text
        low, high = (100 * end for end in spread.interval)
        assert f"{low:.1f}–{high:.1f} %" in text
    scores = next(iter(runs.values()))
    stages = {"train": scores, "second": scores}
    wide = flat(terminal_retrieval(random_findings(50, 3, 0), scores, stages=stages), width)
    for value in measures(scores).values():
        assert f"{100 * value:.1f}" in wide.partition("stage by stage")[2]


# Several runs


def test_the_spread_over_seeds_is_that_of_each_measure():
    runs = {f"seed-{s}": made_scores(seed=s) for s in range(4)}
    found = retrieval_evaluation(runs)
    assert list(found.over_runs) == [
        "precision_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "r_precision", "map_at_r",
    ]  # fmt: skip
    values = [one.map_at_r for one in runs.values()]
    spread = found.over_runs["map_at_r"]
    assert spread.n_runs == 4
    assert spread.mean == pytest.approx(statistics.mean(values))
    assert spread.std == pytest.approx(statistics.stdev(values))
    half = 3.182446 * spread.std / 2  # Student's t of 3 degrees of freedom, 97.5 %
    assert spread.interval == pytest.approx((spread.mean - half, spread.mean + half), abs=1e-6)
    assert json.loads(json.dumps(found.to_dict()))["over_runs"]["map_at_r"]["n_runs"] == 4


def test_one_run_has_no_spread_and_none_is_no_error():
    found = retrieval_evaluation({"a": made_scores()})
    assert found.over_runs == {}
    assert "±" not in flat(terminal_retrieval_evaluation(found))
    assert retrieval_evaluation({}).over_runs == {}


def test_a_measure_that_one_run_lacks_has_no_spread():
    fewer = score_retrieval(
        np.eye(2, dtype=np.float32)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]), ks=(1, 2)
    )
    more = score_retrieval(
        np.eye(2, dtype=np.float32)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]), ks=(1, 4)
    )
    assert set(over_seeds([fewer, more])) == {"precision_at_1", "r_precision", "map_at_r"}
    assert over_seeds([nothing(), nothing()]) == {}
    text = flat(terminal_retrieval_evaluation(retrieval_evaluation({"a": fewer, "b": more})))
    assert "Recall@2" in text
    assert "Recall@4" in text
    assert "–" in text  # what a run lacks


def test_recall_at_1_is_said_once():
    scores = made_scores()
    assert scores.recall_at[1] == scores.precision_at_1
    assert "recall_at_1" not in measures(scores)


def test_runs_on_other_test_images_are_refused():
    with pytest.raises(DataError, match=r"b: tested on 90 images, and a on 60\. Compare"):
        retrieval_evaluation({"a": made_scores(60), "b": made_scores(90)})
