"""The offline filter in the audit: verdicts, probabilities, reasons, rates and warnings."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from labelsieve.auditing.audit import recipe
from labelsieve.cli import main
from labelsieve.cli.audit import audit as audit_command
from labelsieve.config import from_dict, overrides, to_dict
from labelsieve.errors import ConfigError
from labelsieve.methods.auditing import METHODS, RECIPES, detect
from labelsieve.methods.prism.detect import PrismDetection, detect_prism
from labelsieve.neighbors.knn import nearest_neighbors
from labelsieve.records import Verdict

approx = pytest.approx

WRONG = [4, 10, 20, 31, 52, 63, 77, 98]
NAMES = [f"class {c}" for c in range(20)]


def made(foreign_rate=0.0, wrong_rate=0.2, seed=0, n_each=60, width=64):
    """20 classes of rows; some labeled wrongly, some in no direction of a class."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(20, width))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    truth = np.repeat(np.arange(20), n_each)
    rows = centers[truth] + 0.2 * rng.normal(size=(len(truth), width))
    draw = rng.random(len(truth))
    foreign, wrong = draw < foreign_rate, draw > 1 - wrong_rate
    rows[foreign] = rng.normal(size=(foreign.sum(), width))
    labels = np.where(wrong, (truth + rng.integers(1, 20, len(truth))) % 20, truth)
    return rows.astype(np.float32), labels, truth, wrong, foreign


@pytest.fixture(scope="module")
def noisy():
    parts = made(foreign_rate=0.15)
    return parts, detect_prism(parts[0], parts[1], NAMES)


def test_probabilities_sum_to_one_and_the_verdict_is_the_likeliest(noisy):
    _, found = noisy
    assert found.probabilities.sum(axis=1) == approx(1, abs=1e-5)
    assert found.probabilities.min() >= 0
    assert (found.verdict == found.probabilities.argmax(axis=1)).all()


def test_wrong_labels_and_foreign_rows_are_told_apart(noisy):
    (_, _, truth, wrong, foreign), found = noisy
    assert roc_auc_score(~(wrong | foreign), found.probabilities[:, 0]) > 0.97
    called = found.verdict == Verdict.FOREIGN
    assert foreign[called].mean() > 0.7
    assert called[foreign].mean() > 0.4
    called = found.verdict == Verdict.MISLABELED
    assert wrong[called].mean() > 0.8
    assert (found.suggestion[called & wrong] == truth[called & wrong]).mean() > 0.95


def test_no_row_is_foreign_where_none_is_and_where_it_is_not_asked_for():
    rows, labels, _, _, _ = made(wrong_rate=0.4)
    assert (detect_prism(rows, labels, NAMES).verdict == Verdict.FOREIGN).mean() < 0.01
    rows, labels, *_ = made(foreign_rate=0.2)
    found = detect_prism(rows, labels, NAMES, PrismDetection(foreign=False))
    assert (found.probabilities[:, Verdict.FOREIGN] == 0).all()


def test_clean_rows_keep_their_label_and_others_get_another(noisy):
    (_, labels, _, _, _), found = noisy
    clean = found.verdict == Verdict.CLEAN
    assert (found.suggestion[clean] == labels[clean]).all()
    assert (found.suggestion[~clean] != labels[~clean]).all()
    assert ((found.suggestion_probability >= 0) & (found.suggestion_probability <= 1)).all()


def test_a_clean_set_stays_clean():
    rows, labels, *_ = made(wrong_rate=0.0)
    found = detect_prism(rows, labels, NAMES)
    assert (found.verdict == Verdict.CLEAN).mean() > 0.99
    assert found.warnings == ()


def test_unlabeled_rows_are_clean_or_foreign_and_get_a_suggestion():
    rows, labels, truth, *_ = made()
    labels[::3] = -1
    found = detect_prism(rows, labels, NAMES)
    assert (found.verdict[::3] != Verdict.MISLABELED).all()
    assert (found.probabilities[::3, Verdict.MISLABELED] == 0).all()
    assert (found.suggestion[::3] == truth[::3]).mean() > 0.95
    assert found.suggestion_probability[::3].mean() > 0.8
    assert found.reasons[0].endswith("it has no label itself.")


def test_each_image_has_one_sentence_that_names_what_it_is_about(noisy):
    (_, labels, _, _, _), found = noisy
    for reason in found.reasons:
        assert reason.endswith(".")
        assert "\n" not in reason
    wrong = int(np.flatnonzero(found.verdict == Verdict.MISLABELED)[0])
    assert repr(NAMES[labels[wrong]]) in found.reasons[wrong]
    assert repr(NAMES[found.suggestion[wrong]]) in found.reasons[wrong]
    foreign = int(np.flatnonzero(found.verdict == Verdict.FOREIGN)[0])
    assert found.reasons[foreign].startswith("It is far from the centers of all classes")


def test_noise_rates_are_near_the_truth_and_inside_their_intervals(noisy):
    (_, labels, _, wrong, foreign), found = noisy
    assert [rate.class_name for rate in found.noise_rates] == NAMES
    off, inside = [], 0
    for c, rate in enumerate(found.noise_rates):
        true = (wrong | foreign)[labels == c].mean()
        off.append(abs(rate.mislabeled + rate.foreign - true))
        low, high = rate.mislabeled_interval
        assert 0 <= low <= rate.mislabeled <= high <= 1
        inside += low <= wrong[labels == c].mean() <= high
    assert np.mean(off) < 0.12  # foreign rows that happen to suit their label are missed
    assert inside >= 15


def test_a_class_of_one_image_is_not_judged_and_said_so():
    rows, labels, *_ = made(wrong_rate=0.0)
    labels[5] = 20
    found = detect_prism(rows, labels, [*NAMES, "alone"])
    assert found.verdict[5] == Verdict.CLEAN
    assert found.reasons[5] == "Not judged: no other image that can be read is labeled 'alone'."
    assert "Classes with a single image: 1 ('alone')" in found.warnings[0]
    assert found.noise_rates[20].mislabeled_interval == (0.0, 1.0)


def test_a_class_of_wrong_labels_is_named():
    rows, labels, *_ = made(wrong_rate=0.0)
    labels[np.random.default_rng(0).choice(len(rows), 25, replace=False)] = 20
    warnings = detect_prism(rows, labels, [*NAMES, "mixture"]).warnings
    assert any("hardly any label seems right: 1 ('mixture')" in text for text in warnings)


def test_features_that_tell_nothing_are_said_to_tell_nothing():
    rng = np.random.default_rng(0)
    found = detect_prism(rng.normal(size=(600, 16)), rng.integers(0, 20, 600), NAMES)
    assert "are nearest to the center of the class they are labeled" in found.warnings[-1]


def test_classes_without_images_have_no_rate():
    rows, labels, *_ = made()
    found = detect_prism(rows, labels, [*NAMES, "empty"])
    assert "empty" not in {rate.class_name for rate in found.noise_rates}


def test_the_door_takes_prism_by_its_settings():
    rows, labels, *_ = made(n_each=20)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    neighbors = nearest_neighbors(rows, 10)
    found = detect(rows, neighbors, labels, NAMES, PrismDetection())
    assert (found.verdict == detect_prism(rows, labels, NAMES).verdict).all()


def test_settings_of_prism_change_by_name_and_survive_json():
    settings = overrides(recipe("prism"), ["detection.offline.noise_rate=0.3"])
    assert settings.detection.offline.noise_rate == 0.3
    back = overrides(settings, ["detection.offline.noise_rate=auto"])
    assert back == recipe("prism")
    for made_so in (settings, back):
        kept = json.loads(json.dumps(to_dict(made_so)))
        assert from_dict(recipe("prism"), kept, "run.json") == made_so
    with pytest.raises(ConfigError, match="noise_rate takes a number, got 'often'"):
        overrides(back, ["detection.offline.noise_rate=often"])


def test_every_recipe_of_an_audit_belongs_to_one_method():
    assert sorted(name for names in METHODS.values() for name in names) == sorted(RECIPES)
    option = next(each for each in audit_command.params if each.name == "method")
    assert list(option.type.choices) == list(METHODS)


def write_set(folder):
    """A table of tiny pictures and features that tell their classes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    lines, rows = ["image,label"], []
    for i in range(100):
        shade = 20 + 40 * (i % 5)
        noise = rng.integers(0, 40, (8, 8, 3))
        Image.fromarray((shade + noise).astype(np.uint8)).save(folder / f"{i:02}.png")
        label = (i + 1) % 5 if i in WRONG else i % 5
        lines.append(f"{i:02}.png,{'abcde'[label]}")
        rows.append(np.eye(16)[i % 5] + 0.1 * rng.normal(size=16))
    (folder / "set.csv").write_text("\n".join(lines) + "\n")
    np.save(folder / "rows.npy", np.array(rows, np.float32))
    return folder / "set.csv"


def test_audit_by_method_and_by_recipe_is_the_same(tmp_path):
    table = write_set(tmp_path)
    given = [str(table), "--features", str(tmp_path / "rows.npy"), "--set", "n_neighbors=5"]
    found = []
    for name, options in (("m", ["--method", "prism"]), ("r", ["--recipe", "prism"])):
        words = ["audit", *given, *options, "--out", str(tmp_path / name)]
        done = CliRunner().invoke(main, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        text = (tmp_path / name / "findings.csv").read_text(encoding="utf-8")
        found.append(list(csv.DictReader(text.splitlines())))
        assert json.loads((tmp_path / name / "run.json").read_text())["recipe"] == "prism"
    assert found[0] == found[1]
    wrong = [row["image"] for row in found[0] if row["verdict"] == "mislabeled"]
    assert wrong == [f"{row:02}.png" for row in WRONG]


def test_a_method_and_a_recipe_of_another_contradict_each_other(tmp_path):
    words = ["audit", str(tmp_path), "--out", str(tmp_path / "o"), "--method", "prism"]
    words += ["--recipe", "paper"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "--recipe paper is none of method prism: prism." in done.output


def test_the_list_of_recipes_has_prism():
    done = CliRunner().invoke(main, ["recipes"])
    assert "  prism\n" in done.output
