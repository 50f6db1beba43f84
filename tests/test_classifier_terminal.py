from __future__ import annotations

import numpy as np
import pytest

from labelsieve.data.decisions import DECIDED
from labelsieve.records import Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_evaluation import classifier_evaluation
from labelsieve.report.classifier_scores import score_classifier
from labelsieve.report.classifier_terminal import (
    N_CLASSES,
    N_WORST,
    terminal_classifier_evaluation,
    terminal_classifier_scores,
    terminal_predictions,
    terminal_training,
)
from labelsieve.report.table import verdict_changes
from made_findings import made_findings, random_findings
from made_predictions import epochs, made_predictions, made_scores
from test_table import printed

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_a_training_shows_counts_before_and_after_and_how_good_it_is():
    before = made_findings([CLEAN] * 4 + [FOREIGN, BROKEN], [0] * 6)
    after = made_findings([CLEAN] * 3 + [MISLABELED, CLEAN, BROKEN], [0] * 6, warnings=("few",))
    scores = score_classifier(
        np.eye(3)[[0, 1, 0, 1, 2]], np.array([0, 1, 1, 1, 2]), ("cat", "dog", "owl"),
        history={"train": epochs(10)}, n_broken=2,
    )  # fmt: skip
    text = printed(terminal_training(after, scores, before=before))
    assert "warning  few" in text
    assert ["verdict", "audited", "trained", "share", "meaning"] in rows(text)
    assert ["clean", "4", "4", "66.7", "%"] in [row[:5] for row in rows(text)]
    assert ["foreign", "1", "0", "0.0", "%"] in [row[:5] for row in rows(text)]
    assert "verdicts that training changed: 2" in text
    assert "broken: 1 that cannot be read, such as 0005.png" in text
    low, high = (100 * end for end in scores.interval)
    assert f"accuracy 80.0 % ({low:.1f}–{high:.1f}) on 5 test images" in text
    assert "balanced 88.9 %; calibration: ECE 0.200, NLL " in text
    assert "only to compare with: 90.0 % after epoch 8 (train)" in text
    assert "test images left out: 2 that cannot be read" in text
    table = rows(text.partition("Classes, the worst first")[2])
    assert [row[0] for row in table[1:5] if row] == ["class", "dog", "cat", "owl"]
    assert table[2][1:3] == ["3", "66.7"]


def test_what_people_decided_is_not_said_to_be_changed_by_training():
    before = made_findings([CLEAN] * 5 + [BROKEN], [0] * 6)
    reason = (DECIDED, DECIDED, "", "", "", "")
    after = made_findings(
        [FOREIGN, CLEAN, FOREIGN, MISLABELED, CLEAN, BROKEN], [0] * 6, reason=reason
    )
    assert verdict_changes(after, before) == {
        "n_decided": 2, "n_by_people": 1, "n_by_training": 2
    }  # fmt: skip
    text = printed(terminal_training(after, None, before=before))
    assert "verdicts that training changed: 2\n2 decided by people, not counted as changed" in text
    assert "decided by people" not in printed(terminal_training(before, None, before=before))


def test_without_test_images_the_agreement_with_the_labels_is_said():
    findings = made_findings([CLEAN, MISLABELED], [0, 0], suggestion=[0, 1])
    text = printed(terminal_training(findings, None))
    assert "agrees with 50.0 % of the labels" in text
    assert "accuracy" not in text
    assert ["verdict", "images", "share", "meaning"] in rows(text)


def test_scores_of_nothing_say_so():
    none = score_classifier(np.array([[0.5, 0.5]]), np.array([-1]), "ab")
    assert "not one can be read and is of a known class" in printed(
        terminal_classifier_scores(none)
    )


def test_a_best_epoch_that_is_the_last_is_not_mentioned():
    text = printed(terminal_classifier_scores(made_scores(20, 3, history={"train": epochs(3)})))
    assert "only to compare" not in text


def test_of_many_classes_the_worst_are_shown_and_the_others_counted():
    scores = made_scores(2000, 100)
    text = printed(terminal_classifier_scores(scores))
    assert "The worst classes" in text
    assert f"{100 - N_WORST} more in run.json" in text
    first = scores.worst_classes()[0]
    assert text.index(first.name) < text.index(scores.worst_classes()[1].name)
    assert "top-5" in text
    assert len(text.splitlines()) < 25


def test_predictions_are_counted_by_class():
    found = Predictions.of_probabilities(
        ("a", "b", "c", "d"), [0, 1, 2], [[0.1, 0.9], [0.3, 0.7], [0.6, 0.4]], ("cat", "dog"),
        warnings=("few images",),
    )  # fmt: skip
    text = printed(terminal_predictions(found))
    assert "warning  few images" in text
    assert "4 images, 2 classes" in text
    assert ["dog", "2", "66.7", "%", "0.80"] in rows(text)
    assert ["cat", "1", "33.3", "%", "0.60"] in rows(text)
    assert "1 image could not be read, such as d" in text


def test_predictions_of_many_classes_are_cut_and_of_none_are_shown():
    text = printed(terminal_predictions(made_predictions(500, 50)))
    assert f"{50 - N_CLASSES} more classes, " in text
    assert len(text.splitlines()) < N_CLASSES + 6
    nothing = Predictions.of_probabilities(("a",), [], np.empty((0, 2)), ("cat", "dog"))
    assert ["cat", "0", "–", "–"] in rows(printed(terminal_predictions(nothing)))


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_figures_are_never_cut_off(width):
    runs = {f"a-run-with-a-long-name-{s}": made_scores(200, 7, s) for s in range(3)}
    said = {name: made_predictions(200, 7, s) for s, name in enumerate(runs)}
    found = classifier_evaluation(runs, said)
    text = " ".join(printed(terminal_classifier_evaluation(found), width).split())
    for scores in runs.values():
        for value in (scores.accuracy, scores.top5, scores.balanced_accuracy):
            assert f"{100 * value:.1f}" in text
        for value in (scores.calibration_error, scores.negative_log_likelihood, scores.brier):
            assert f"{value:.3f}" in text
    spread = found.over_runs["accuracy"]
    assert f"{100 * spread.mean:.1f} ± {100 * spread.std:.1f} %" in text
    low, high = (100 * end for end in spread.interval)
    assert f"{low:.1f}–{high:.1f} %" in text
    assert f"two runs say the same of {100 * found.agreement:.1f} % of the images" in text
    low, high = (100 * end for end in found.over_images)
    assert f"the mean accuracy is within {low:.1f}–{high:.1f} % (95 %, Wilson)" in text
    wide = " ".join(printed(terminal_training(random_findings(50, 3, 0), runs[next(iter(runs))]),
                            width).split())  # fmt: skip
    for one in runs[next(iter(runs))].worst_classes():
        assert f"{100 * one.accuracy:.1f} % ({100 * one.interval[0]:.1f}–" in wide


def test_one_run_has_no_spread():
    text = printed(terminal_classifier_evaluation(classifier_evaluation({"a": made_scores(50, 3)})))
    assert "±" not in text
    assert "two runs" not in text
