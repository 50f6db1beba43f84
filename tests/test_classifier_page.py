from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.data.decisions import DECIDED
from labelsieve.errors import DataError, RunError
from labelsieve.records import NoiseRate, Verdict
from labelsieve.records.predictions import Predictions
from labelsieve.report.classifier_curves import accuracy_chart, training_charts
from labelsieve.report.classifier_galleries import (
    N_CHANGES,
    N_MISTAKES,
    choose_changes,
    choose_mistakes,
    true_classes,
)
from labelsieve.report.classifier_page import N_CLASSES, write_classifier_page
from labelsieve.report.classifier_scores import score_classifier
from labelsieve.report.confusion import predicted_map
from labelsieve.report.curves import N_POINTS, smoothed
from labelsieve.report.galleries import in_turn
from made_findings import made_findings, random_findings
from made_predictions import epochs, made_names, made_probabilities
from test_page import EVIL, Elements, image_set

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict
ALWAYS = {"overview", "mislabeled", "foreign", "next", "made"}
TESTED = {"scores", "classes", "confusion"}


def on_test(n, n_classes, seed=0, names=None, **more):
    """Scores, predictions and findings-like labels of a test set."""
    values, truth = made_probabilities(n, n_classes, seed)
    names = names or made_names(n_classes)
    ids = [f"t{i:04d}.png" for i in range(n)]
    predictions = Predictions.of_probabilities(ids, np.arange(n), values, names)
    labels = made_findings([CLEAN] * n, truth.tolist(), class_names=names, image=ids)
    return score_classifier(values, truth, names, **more), predictions, labels


def page(folder, findings, before=None, test=None, **more):
    (folder / "test").mkdir(exist_ok=True)
    if test is not None:
        scores, predictions, labels = test
        more |= {"scores": scores, "predictions": predictions,
                 "test_images": image_set(folder / "test", labels)}  # fmt: skip
    path = folder / "report.html"
    write_classifier_page(findings, before, image_set(folder, findings), path, **more)
    return path.read_text(encoding="utf-8")


def sections(text):
    return {attributes["id"] for attributes in Elements(text)["section"]}


def words(text, section=""):
    """What a reader sees of a section, without the markup."""
    body = text.partition(f'<section id="{section}"' if section else "<main")[2]
    body = body.partition("</section>" if section else "<footer")[0]
    body = re.sub(r"<title>.*?</title>", "", body)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body).replace("\N{NO-BREAK SPACE}", " "))


def lede(text):
    found = re.search(r'<p class="lede">(.*?)</p>', text, re.DOTALL)[1]
    return " ".join(re.sub(r"<[^>]*>", "", found).replace("\N{NO-BREAK SPACE}", " ").split())


HISTORY = {"warm-up": epochs(4), "train": epochs(10, contrast=2.0, classification=1.0, worth=0.5)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A page with everything on it."""
    findings = random_findings(
        200, 7, seed=1, neighbors=np.random.default_rng(0).integers(0, 200, (200, 5)),
        warnings=("Few images in class 3.",), reason=("the classifier says so",) * 200,
    )  # fmt: skip
    before = random_findings(200, 7, seed=2)
    about = {
        "labelsieve": "0.1.0", "job": "train", "recipe": "robust", "model": "cpu",
        "argv": ["train", "my photos/", "--test", "checked/", "--out", "run"], "run": "my run",
        "settings": {"train": {"objective": {"power": 2.0}}}, "timings": {"train": 3.0},
        "next": [("labelsieve review run", "Look at the doubtful ones:")],
    }  # fmt: skip
    test = on_test(90, 7, history=HISTORY, n_broken=1)
    return page(tmp_path_factory.mktemp("page"), findings, before, test, about=about,
                history=HISTORY)  # fmt: skip


def test_the_page_is_well_formed_and_its_links_lead_somewhere(whole):
    elements = Elements(whole)
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {a["href"][1:] for _, a in elements.found if a.get("href", "").startswith("#")}
    assert targets <= set(ids)


def test_the_page_loads_nothing_from_anywhere(whole):
    elements = Elements(whole)
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in whole
    assert "url(" not in whole
    policy = next(a["content"] for a in elements["meta"] if a.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert len(elements["script"]) == 1


def test_every_picture_and_drawing_says_in_words_what_it_shows(whole):
    elements = Elements(whole)
    said = [a["alt"] for a in elements["img"]]
    assert len(said) > 80
    kinds = r"(\d{4}\.png, labeled class \d|Labeled class \d, called class \d: t\d{4}\.png)"
    assert all(re.fullmatch(kinds, alt) for alt in said)
    drawings = [a["aria-label"] for a in elements["svg"] if a.get("role") == "img"]
    # shares, reliability, confusion, two phases, wrong labels
    assert len(drawings) == 1 + 1 + 1 + (2 + 4) + 1
    assert all(text.strip() for text in drawings)


def test_a_page_with_everything_has_every_section_in_order(whole):
    order = ["warnings", "overview", "scores", "classes", "confusion", "mistakes", "training",
             "changed", "confusions", "mislabeled", "foreign", "next", "made"]  # fmt: skip
    assert [a["id"] for a in Elements(whole)["section"]] == order
    linked = re.findall(r'<li><a href="#(\w+)">', whole.partition("<main")[0])
    assert linked == order


def test_the_top_says_how_good_it_is_and_what_it_was_trained_on(whole):
    scores, _, _ = on_test(90, 7)
    low, high = (f"{100 * end:.1f} %" for end in scores.interval)
    said = lede(whole)
    assert "A classifier of 7 classes, trained on 200 images, recipe robust, model cpu." in said
    assert f"{100 * scores.accuracy:.1f} % of 90 test images get their class ({low} to" in said
    assert said.endswith("Read the warnings first.")
    assert high in said
    before = random_findings(200, 7, seed=2)
    after = random_findings(200, 7, seed=1)
    overview = words(whole, "overview")
    assert f"The audit took {before.count(CLEAN)} images as clean" in overview
    more = after.count(MISLABELED) - before.count(MISLABELED)
    assert f"{more:+d} by training".replace("-", "\N{MINUS SIGN}") in overview


def test_the_page_says_how_it_was_made_and_what_to_do(whole):
    for text in (
        "labelsieve train &#39;my photos/&#39; --test checked/ --out run", "train.objective.power",
        "labelsieve predict &#39;my run&#39; IMAGES --out new.csv", "labelsieve review run",
        "<dt>recipe</dt><dd>robust</dd>", "<dt>model</dt><dd>cpu</dd>",
    ):  # fmt: skip
        assert text in whole, text
    assert whole.index("Before you rely on this") < whole.index("<h2>Overview")


def test_the_last_epoch_is_the_result_and_the_best_one_only_to_compare(whole):
    table = words(whole, "scores")
    scores, _, _ = on_test(90, 7)
    assert f"Accuracy, last epoch{100 * scores.accuracy:.1f} %" in table
    assert "Best on these images, only to compare90.0 %" in table
    training = words(whole, "training")
    assert "The last epoch counts: 80.0 %. The best on the test images, 90.0 %" in training
    assert "Warm-up on clean images" in training


@pytest.mark.parametrize("n_classes", [2, 7])
def test_without_a_test_set_the_page_says_what_is_known(tmp_path, n_classes):
    findings = random_findings(60, n_classes, seed=0)
    findings = replace(findings, suggestion=np.where(findings.verdict == 1, 0, findings.label))
    text = page(tmp_path, findings)
    agrees = (findings.suggestion == findings.label).mean()
    assert f"It agrees with {100 * agrees:.1f} % of the labels" in lede(text)
    assert "train with --test IMAGES" in words(text, "overview")
    assert sections(text) == ALWAYS | {"noise", "confusions"}


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({}, set()),
        ({"history": {"train": epochs(3)}}, {"training"}),
        ({"history": {"train": []}}, set()),
        ({"history": {"train": [{"images_per_second": 3.0}]}}, set()),
    ],
)
def test_a_section_is_there_only_where_there_is_something_to_say(tmp_path, given, more):
    text = page(tmp_path, made_findings([CLEAN, CLEAN], [0, 1]), **given)
    assert sections(text) == ALWAYS | more


def test_a_test_set_of_which_nothing_is_known_is_said_to_be_one(tmp_path):
    none = score_classifier(np.array([[0.5, 0.5]]), np.array([-1]), ("cat", "dog"))
    text = page(tmp_path, made_findings([CLEAN], [0]), scores=none)
    assert "Not one test image can be read" in words(text, "overview")
    assert sections(text) == ALWAYS


def test_scores_alone_have_their_tables_and_no_gallery(tmp_path):
    scores, _, _ = on_test(30, 3)
    text = page(tmp_path, made_findings([CLEAN], [0]), scores=scores)
    assert sections(text) == ALWAYS | TESTED


def test_a_perfect_classifier_has_no_mistakes(tmp_path):
    names = ("cat", "dog")
    predictions = Predictions.of_probabilities(("a", "b"), [0, 1], np.eye(2), names)
    labels = made_findings([CLEAN] * 2, [0, 1], class_names=names, image=("a", "b"))
    test = (score_classifier(np.eye(2), np.array([0, 1]), names), predictions, labels)
    text = page(tmp_path, made_findings([CLEAN], [0]), made_findings([CLEAN], [0]), test)
    assert "No test image gets another class" in words(text, "mistakes")
    assert "Training changed no verdict" in words(text, "changed")
    assert "100.0 % of 2 test images" in lede(text)


def test_names_from_the_user_are_never_markup(tmp_path):
    names = (EVIL + "a", EVIL + "b")
    findings = made_findings(
        [MISLABELED, FOREIGN], [0, 1], class_names=names, image=[EVIL, "{{ 7 * 7 }}.png"],
        suggestion=[1, -1], reason=(EVIL,) * 2, warnings=(EVIL,),
        noise_rates=(NoiseRate(EVIL + "a", 3, 0.3, (0.1, 0.5), 0.1, (0.0, 0.2)),),
    )  # fmt: skip
    before = replace(findings, verdict=findings.verdict[::-1].copy())
    about = {"recipe": EVIL, "model": EVIL, "settings": {EVIL: EVIL}, "next": [(EVIL, EVIL)]}
    history = {EVIL: epochs(3)}
    test = on_test(20, 2, names=names, history=history)
    text = page(tmp_path, findings, before, test, about=about, history=history)
    elements = Elements(text)
    assert len(elements["script"]) == 1
    assert not any("onerror" in a or a.get("src") == "x" for _, a in elements.found)
    assert "<script>alert" not in text
    assert "{{ 7 * 7 }}.png" in "".join(elements.texts)


def test_a_thousand_classes_and_many_findings_keep_the_page_small(tmp_path):
    findings = random_findings(20_000, 1000, seed=0)
    before = random_findings(20_000, 1000, seed=1)
    text = page(tmp_path, findings, before, on_test(3000, 1000))
    assert len(text) < 15 << 20
    assert f"{N_CLASSES} of " in words(text, "classes")
    table = text.partition('<section id="classes"')[2].partition("</section>")[0]
    assert table.count('<tr role="row">') == N_CLASSES + 1
    assert f"{N_MISTAKES} of them" in words(text, "mistakes")
    assert f"{N_CHANGES} of them" in words(text, "changed")
    assert text.partition('id="mistakes"')[2].partition("</section>")[0].count("<img") == N_MISTAKES


def test_records_of_other_images_are_refused(tmp_path):
    findings = made_findings([CLEAN] * 2, [0, 1])
    other = made_findings([CLEAN] * 2, [0, 1], image=["x", "y"])
    _, predictions, _ = on_test(5, 3)
    images = image_set(tmp_path, findings)
    with pytest.raises(DataError, match="do not go with photos/pets, which has 2"):
        write_classifier_page(other, None, images, tmp_path / "r.html")
    with pytest.raises(DataError, match="findings of 2 images before training and of 2 after"):
        write_classifier_page(findings, other, images, tmp_path / "r.html")
    with pytest.raises(DataError, match="predictions of 5 images do not go with photos/pets"):
        write_classifier_page(findings, None, images, tmp_path / "r.html",
                              predictions=predictions, test_images=images)  # fmt: skip
    with pytest.raises(RunError, match="Make the folder"):
        write_classifier_page(findings, None, images, tmp_path / "nowhere" / "r.html")
    assert not list(tmp_path.glob("*.html"))


def test_progress_counts_the_pictures_of_both_sets_up_to_all(tmp_path):
    told = []
    findings = random_findings(60, 3, seed=0)
    page(tmp_path, findings, random_findings(60, 3, seed=1), on_test(40, 3),
         progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    assert len({total for _, total in told}) == 1


# What is chosen


def predicted(rows, names=("cat", "dog", "owl")):
    """Predictions with these classes and probabilities; None is broken."""
    n, c = len(rows), len(names)
    known = [i for i, row in enumerate(rows) if row is not None]
    values = np.zeros((len(known), c))
    for place, i in enumerate(known):
        label, sure = rows[i]
        values[place] = (1 - sure) / (c - 1)
        values[place, label] = sure
    ids = [f"{i}.png" for i in range(n)]
    return Predictions.of_probabilities(ids, known, values, names)


def test_the_surest_mistakes_come_first_and_right_and_broken_images_are_none():
    predictions = predicted([(0, 0.95), (1, 0.6), (2, 0.9), None, (1, 0.99)])
    found = choose_mistakes(predictions, np.array([1, 0, 2, 0, -1]))
    assert [m.picture.row for m in found.shown] == [0, 1]
    first = found.shown[0]
    assert (first.picture.label, first.predicted) == ("dog", "cat")
    assert first.probability == pytest.approx(0.95)
    assert first.label_probability == pytest.approx(0.025)
    assert (found.n_mistakes, found.n_sure) == (2, 1)


def test_a_label_that_is_none_of_the_kept_choices_has_no_probability():
    names = made_names(9)
    values = np.array([[0.3, 0.2, 0.15, 0.1, 0.09, 0.08, 0.05, 0.02, 0.01]])
    predictions = Predictions.of_probabilities(("a",), [0], values, names)
    assert choose_mistakes(predictions, np.array([8])).shown[0].label_probability is None
    assert choose_mistakes(predictions, np.array([4])).shown[0].label_probability is not None


def test_every_class_has_a_mistake_shown_before_one_has_many():
    predictions = predicted([(1, 0.9)] * 200 + [(0, 0.5)])
    found = choose_mistakes(predictions, np.array([0] * 200 + [2]))
    assert found.n_mistakes == 201
    assert len(found.shown) == N_MISTAKES
    assert found.shown[-1].picture.row == 200  # the least sure, yet the only one of its class


def test_test_labels_are_matched_to_the_classifiers_classes_by_name(tmp_path):
    labels = made_findings([CLEAN] * 4, [0, 1, 2, -1], class_names=("dog", "emu", "owl"))
    images = image_set(tmp_path, labels)
    assert true_classes(images, ("cat", "dog", "owl")).tolist() == [1, -1, 2, -1]
    assert true_classes(replace(images, labels=None), ("cat",)).tolist() == [-1] * 4


def test_changes_are_counted_by_kind_and_the_largest_come_first():
    p = [[0.9, 0.1, 0], [0.5, 0.4, 0.1], [0, 0.2, 0.8], [0.4, 0.3, 0.3], [0.9, 0.1, 0]]
    q = [[0.1, 0.9, 0], [0.4, 0.5, 0.1], [0.6, 0.2, 0.2], [0.4, 0.3, 0.3], [0.9, 0.1, 0]]
    before = made_findings([CLEAN, CLEAN, FOREIGN, CLEAN, BROKEN], [0] * 5, probabilities=p)
    after = made_findings([MISLABELED, MISLABELED, CLEAN, CLEAN, BROKEN], [0] * 5,
                          probabilities=q, suggestion=[1, 2, 0, 0, -1])  # fmt: skip
    found = choose_changes(after, before)
    assert found.counts.tolist() == [[1, 2, 0], [0, 0, 0], [1, 0, 0]]
    assert found.n_changes == 3
    assert [c.picture.row for c in found.shown] == [0, 2, 1]
    first = found.shown[0]
    assert (first.before, first.after, first.suggestion) == (CLEAN, MISLABELED, "dog")
    assert first.before_probability == pytest.approx(0.9)
    assert first.after_probability == pytest.approx(0.9)


def test_every_kind_of_change_is_shown_before_one_has_many():
    n = 3 * N_CHANGES
    large, small = [0.0, 1.0, 0.0], [0.5, 0.1, 0.4]
    before = made_findings([CLEAN] * n, [0] * n, probabilities=[[1.0, 0, 0]] * n)
    after = made_findings([MISLABELED] * (n - 1) + [FOREIGN], [0] * n,
                          probabilities=[large] * (n - 1) + [small])  # fmt: skip
    found = choose_changes(after, before)
    assert len(found.shown) == N_CHANGES
    assert found.shown[-1].picture.row == n - 1


@given(st.integers(1, 3 * N_POINTS), st.integers(0, 9))
def test_a_line_of_many_points_is_one_of_means_from_the_first_point_to_the_last(n, seed):
    values = np.random.default_rng(seed).normal(size=n)
    points = [(float(i + 1), float(value)) for i, value in enumerate(values)]
    found = smoothed(points)
    if n <= N_POINTS:
        assert found == points
        return
    assert len(found) == N_POINTS
    assert (found[0], found[-1]) == (points[0], points[-1])
    across = [place for place, _ in found]
    assert across == sorted(set(across))
    means = [np.mean(run) for run in np.array_split(values[1:-1], N_POINTS - 2)]
    assert [value for _, value in found[1:-1]] == pytest.approx(means)


def test_what_people_decided_is_no_change_by_training(tmp_path):
    before = made_findings([CLEAN] * 6, [0] * 6)
    after = made_findings([FOREIGN, FOREIGN, MISLABELED, CLEAN, CLEAN, CLEAN], [0] * 6,
                          reason=(DECIDED, DECIDED, "", "", DECIDED, ""))  # fmt: skip
    found = choose_changes(after, before)
    assert (found.n_changes, found.n_decided) == (1, 3)
    assert [change.picture.row for change in found.shown] == [2]
    assert found.counts.sum() == 3
    text = page(tmp_path, after, before)
    assert "Not among them: 3 decided by people." in words(text, "changed")
    overview = words(text, "overview")
    assert "training began with that, and with 3 decided by people, and found" in overview
    for moved in (
        "\N{MINUS SIGN}1 by training \N{MINUS SIGN}2 by people",
        "+1 by training",
        "+2 by people",
    ):
        assert moved in overview
    only = made_findings([FOREIGN] + [CLEAN] * 5, [0] * 6, reason=(DECIDED, *[""] * 5))
    text = words(page(tmp_path, only, before), "changed")
    assert "Training changed no verdict of the audit. Not looked at: 1 decided by people." in text


def test_the_first_of_each_key_is_taken_in_turn():
    assert in_turn("aaabbc", 3).tolist() == [0, 3, 5]
    assert in_turn("aaabbc", 5).tolist() == [0, 1, 3, 4, 5]
    assert in_turn("", 5).tolist() == []


def test_the_confusion_of_predictions_has_a_column_for_each_class_it_shows():
    counts = np.array([[8, 2, 0], [0, 10, 0], [5, 0, 0]])
    found = predicted_map(counts, ("cat", "dog", "owl"))
    assert found.classes == ("cat", "dog", "owl")
    assert found.clusters == (0, 1)  # nothing was called an owl
    assert [(c.row, c.column) for c in found.cells if c.is_right] == [(0, 0), (1, 1)]
    worst = [(one.name, one.share, one.strayed_to) for one in found.worst]
    assert worst == [("owl", 0.0, 0), ("cat", 0.8, 1), ("dog", 1.0, -1)]


# Charts


def test_only_the_last_tested_phase_has_the_epoch_that_counts():
    found = dict(training_charts({"pretrain": [{"loss": 1.0}], **HISTORY, "after": [{"loss": 2}]}))
    assert list(found) == ["Pretraining", "Warm-up on clean images", "Training", "After"]
    warm_up = next(c for c in found["Warm-up on clean images"] if c.title == "Test accuracy")
    final = next(c for c in found["Training"] if c.title == "Test accuracy")
    assert warm_up.mark is None
    assert warm_up.sentence.startswith("At its end: ")
    assert final.mark == (10, "counts")
    assert [line.label for line in final.lines] == ["test accuracy", "best on the test images"]
    assert len(final.lines[1].ends) == 1
    assert [c.title for c in found["Training"]] == [
        "Training loss", "Test accuracy", "Parts of the loss", "What is believed",
    ]  # fmt: skip


def test_a_last_epoch_that_is_the_best_needs_no_comparison():
    lines = [{"test_accuracy": 0.5}, {"test_accuracy": 0.6}]
    found = accuracy_chart(lines, is_final=True)
    assert found.sentence == "The last epoch counts: 60.0 %."
    assert len(found.lines) == 1


@pytest.mark.parametrize("values", [[0.831, 0.832], [0.999, 1.0], [0.0, 0.001], [0.5]])
def test_no_two_ticks_of_the_accuracy_read_alike(values):
    found = accuracy_chart([{"test_accuracy": v} for v in values], is_final=True)
    ticks = [f"{100 * tick:.0f}" for tick in found.y.ticks]
    assert len(set(ticks)) == len(ticks)
    assert found.y.low <= min(values)
    assert max(values) <= found.y.high
    assert accuracy_chart([{"loss": 1.0}], is_final=True) is None
