"""What is believed of images once a classifier has learned from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers
from sklearn.metrics import roc_auc_score

import reference_refine
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.sncf import refine
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.pool import calibrated, reordered
from labelsieve.methods.sncf.refine import Refine, refined, refined_findings
from labelsieve.records import NoiseRate, Verdict
from made_findings import made_findings

CLEAN, MISLABELED, FOREIGN = Verdict.CLEAN, Verdict.MISLABELED, Verdict.FOREIGN


def believed(labels, kinds, suggestion=None, likely=None, certain=None, group=None) -> Beliefs:
    n = len(labels)
    return Beliefs(
        np.array(labels, np.int64),
        np.array(kinds, np.float32).reshape(n, 3),
        np.full(n, -1) if suggestion is None else np.array(suggestion, np.int64),
        np.zeros(n, np.float32) if likely is None else np.array(likely, np.float32),
        np.full(n, -1, np.int32) if group is None else np.array(group, np.int32),
        np.zeros(n, bool) if certain is None else np.array(certain, bool),
    )


def random_case(seed: int, n: int, n_classes: int, unlabeled: float = 0.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    kinds = rng.dirichlet(np.ones(3), n)
    bare = rng.random(n) < unlabeled
    labels[bare] = -1
    kinds[bare, 1] += kinds[bare, 0]
    kinds[bare, 0] = 0
    suggestion = rng.integers(-1, n_classes, n)
    likely = np.where(suggestion >= 0, kinds[:, 1] * rng.random(n), 0)
    probabilities = rng.dirichlet(np.ones(n_classes), n).astype(np.float32)
    return believed(labels, kinds, suggestion, likely), probabilities


def witnesses(seed=0, n=4000, n_classes=5, foreign_rate=0.15, memorized=0.0):
    """An audit and a classifier that both see the truth dimly, each with errors of its own."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    kind = rng.choice(3, n, p=[0.85 - foreign_rate, 0.15, foreign_rate])
    labels = np.where(kind == 0, truth, (truth + rng.integers(1, n_classes, n)) % n_classes)
    evidence = 1.2 * np.eye(3)[kind] + rng.normal(size=(n, 3))
    kinds = np.exp(1.5 * evidence + np.log([0.7, 0.15, 0.15]))
    kinds /= kinds.sum(axis=1, keepdims=True)
    looks = rng.normal(size=(n, n_classes)) + 2 * np.eye(n_classes)[truth] * (kind < 2)[:, None]
    looks += 9 * np.eye(n_classes)[labels] * (rng.random(n) < memorized)[:, None]
    probabilities = np.exp(looks)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    suggestion = np.where(rng.random(n) < 0.6, truth, rng.integers(0, n_classes, n))
    suggestion = np.where(kinds.argmax(axis=1) == 0, labels, suggestion)
    likely = np.where(suggestion == labels, kinds[:, 0], 0.6 * kinds[:, 1])
    beliefs = believed(labels, kinds, suggestion, likely)
    return beliefs, probabilities.astype(np.float32), kind, truth


@given(seed=integers(0, 10_000), n=integers(1, 40))
def test_calibrated_is_isotonic_regression_by_pooling_violators(seed, n):
    rng = np.random.default_rng(seed)
    suspicion, target = rng.integers(0, 12, n).astype(float), rng.random(n)
    weights = rng.random(n) + 0.1
    found = calibrated(suspicion, target, weights)
    expected = reference_refine.isotonic(suspicion.tolist(), target.tolist(), weights.tolist())
    assert found == pytest.approx(expected, abs=1e-9)
    assert (weights * found).sum() == pytest.approx((weights * target).sum())


@given(seed=integers(0, 10_000), n=integers(1, 40), weight=floats(0, 1))
def test_reordered_deals_the_same_values_out_in_the_order_of_the_pool(seed, n, weight):
    rng = np.random.default_rng(seed)
    first, second = rng.random(n), rng.random(n)
    found = reordered(first, second, weight)
    assert np.sort(found).tolist() == np.sort(first).tolist()
    assert found.tolist() == reference_refine.reordered(first.tolist(), second.tolist(), weight)


def test_reordered_with_weight_0_or_a_second_that_says_nothing_changes_nothing():
    first = np.array([1.0, 0.0, 0.3, 1e-7, 1e-6, 0.99999, 0.3])
    assert reordered(first, np.linspace(0, 1, 7), 0).tolist() == first.tolist()
    assert reordered(first, np.full(7, 0.2), 0.5).tolist() == first.tolist()


def test_reordered_with_weight_1_takes_the_order_of_the_second_alone():
    first, second = np.array([0.1, 0.5, 0.9]), np.array([0.9, 0.5, 0.1])
    assert reordered(first, second, 1).tolist() == [0.9, 0.5, 0.1]


@given(seed=integers(0, 10_000), n=integers(1, 25), n_classes=integers(2, 5), weight=floats(0, 1))
def test_refined_is_its_slow_twin(seed, n, n_classes, weight):
    beliefs, probabilities = random_case(seed, n, n_classes)
    found = refined(beliefs, probabilities, settings=Refine(weight))
    expected = reference_refine.kinds(
        beliefs.kinds.astype(float).tolist(), beliefs.labels.tolist(),
        probabilities.astype(float).tolist(), weight,
    )  # fmt: skip
    for row, slow in zip(found.kinds, expected, strict=True):
        assert row == pytest.approx(slow, abs=1e-5)


@given(seed=integers(0, 10_000), n=integers(1, 40), n_classes=integers(2, 5))
def test_what_comes_out_are_beliefs_whatever_goes_in(seed, n, n_classes):
    beliefs, probabilities = random_case(seed, n, n_classes, unlabeled=0.3)
    found = refined(beliefs, probabilities)  # whose checks refuse what are none
    assert np.allclose(found.kinds.sum(axis=1), 1, atol=1e-5)
    assert found.kinds.min() >= 0
    assert found.labels is beliefs.labels
    assert ((found.suggestion >= 0) & (found.suggestion < n_classes)).all()
    assert (found.suggestion_probability >= 0).all()
    likely = 1 - found.kinds[:, FOREIGN]
    assert (found.suggestion_probability <= likely + 1e-5).all()
    clean, wrong = found.verdict == CLEAN, (found.verdict == MISLABELED) & (found.labels >= 0)
    assert (found.suggestion[clean] == found.labels[clean]).all()
    assert (found.suggestion[wrong] != found.labels[wrong]).all()
    assert not found.kinds[found.labels < 0, CLEAN].any()


@given(seed=integers(0, 10_000))
def test_neither_the_order_of_images_nor_the_numbers_of_classes_matter(seed):
    rng = np.random.default_rng(seed)
    beliefs, probabilities = random_case(seed, 30, 4, unlabeled=0.2)
    plain = refined(beliefs, probabilities)
    order = rng.permutation(30)
    columns = {name: column[order] for name, column in vars(beliefs).items()}
    shuffled = refined(Beliefs(**columns), probabilities[order])
    assert np.allclose(shuffled.kinds, plain.kinds[order], atol=1e-6)
    assert (shuffled.suggestion == plain.suggestion[order]).all()
    new = np.append(rng.permutation(4), -1)  # class c is called new[c]; none stays none
    renamed = replace(beliefs, labels=new[beliefs.labels], suggestion=new[beliefs.suggestion])
    again = refined(renamed, probabilities[:, np.argsort(new[:4])])
    assert np.allclose(again.kinds, plain.kinds, atol=1e-6)
    assert (again.suggestion == new[plain.suggestion]).all()


def test_two_dim_witnesses_tell_more_than_one():
    beliefs, probabilities, kind, truth = witnesses()
    found = refined(beliefs, probabilities)
    for which in (MISLABELED, FOREIGN):
        before, after = (
            roc_auc_score(kind == which, each.kinds[:, which]) for each in (beliefs, found)
        )
        assert after > before + 0.005
    right = [(each.suggestion == truth)[kind == MISLABELED].mean() for each in (beliefs, found)]
    assert right[1] > right[0] + 0.02
    assert (found.verdict == MISLABELED).sum() == pytest.approx(
        (beliefs.verdict == MISLABELED).sum(), rel=0.1
    )


def test_a_classifier_that_memorized_its_labels_changes_no_kind():
    beliefs, _, _, _ = witnesses()
    memorized = 0.01 + 0.95 * np.eye(5, dtype=np.float32)[beliefs.labels]
    found = refined(beliefs, memorized, settings=Refine(0.5))
    assert np.allclose(found.kinds, beliefs.kinds, atol=1e-6)


def test_one_that_memorized_half_does_less_but_no_harm():
    beliefs, probabilities, kind, _ = witnesses(memorized=0.5)
    wrong = kind == MISLABELED
    alone = roc_auc_score(wrong, 1 - probabilities[np.arange(len(kind)), beliefs.labels])
    before = roc_auc_score(wrong, beliefs.kinds[:, MISLABELED])
    assert alone < before - 0.1
    after = roc_auc_score(wrong, refined(beliefs, probabilities).kinds[:, MISLABELED])
    assert after > before


def test_labels_that_are_trusted_stay_so():
    labels = np.array([0, 1, 2, 1])
    found = refined(Beliefs.trusting(labels), np.full((4, 3), 1 / 3, np.float32))
    assert (found.verdict == CLEAN).all()
    assert found.suggestion.tolist() == labels.tolist()


def test_what_a_person_decided_stays_and_so_do_images_that_nobody_asked_about():
    beliefs, probabilities = random_case(3, 60, 4)
    certain = np.zeros(60, bool)
    certain[::4] = True
    kinds = np.where(certain[:, None], np.eye(3)[np.arange(60) % 3], beliefs.kinds)
    beliefs = replace(beliefs, certain=certain, kinds=kinds.astype(np.float32))
    rows = np.arange(40)
    found = refined(beliefs, probabilities[rows], rows)
    same = certain | (np.arange(60) >= 40)
    for name, column in vars(beliefs).items():
        assert np.array_equal(getattr(found, name)[same], column[same]), name
    assert not np.allclose(found.kinds[~same], beliefs.kinds[~same])
    everything = replace(beliefs, certain=np.ones(60, bool))
    assert refined(everything, probabilities) is everything


def test_beliefs_from_before_are_not_written_to():
    beliefs, probabilities = random_case(5, 30, 3)
    before = {name: column.copy() for name, column in vars(beliefs).items()}
    refined(beliefs, probabilities)
    for name, column in before.items():
        assert np.array_equal(getattr(beliefs, name), column), name


def test_an_image_without_label_gets_the_class_that_both_find_likeliest():
    beliefs = believed([-1, -1, 0, 1], [[0, 0.9, 0.1]] * 2 + [[0.9, 0.05, 0.05]] * 2,
                       [2, -1, 0, 1], [0.7, 0, 0.9, 0.9])  # fmt: skip
    probabilities = np.array([[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.1, 0.8, 0.1]])
    found = refined(beliefs, probabilities.astype(np.float32))
    assert found.suggestion.tolist() == [2, 1, 0, 1]
    assert found.verdict[:2].tolist() == [MISLABELED, MISLABELED]


@pytest.mark.parametrize(("likely", "expected"), [(0.85, 1), (0.34, 2)])
def test_a_sure_suggestion_outweighs_the_classifier_and_a_vague_one_does_not(likely, expected):
    beliefs = believed([0], [[0.1, 0.9, 0.0]], [1], [likely])
    found = refined(beliefs, np.array([[0.3, 0.2, 0.5]], np.float32))
    # of what remains without the label: likely / 0.9 times sqrt(0.2), the rest times sqrt(0.5)
    chance = likely / 0.9
    weights = {1: chance * 0.2**0.5, 2: (1 - chance) * 0.5**0.5}
    assert found.suggestion.tolist() == [expected]
    share = weights[expected] / sum(weights.values())
    assert found.suggestion_probability[0] == pytest.approx(0.9 * share, rel=1e-5)


def test_a_foreign_image_is_closest_to_what_classifier_and_audit_find_likeliest_its_label_too():
    beliefs = believed([0, 0, 0], [[0.1, 0.1, 0.8]] * 3, [-1, -1, 1], [0, 0, 0.09])
    says = np.array([[0.5, 0.3, 0.2], [0.3, 0.2, 0.5], [0.5, 0.3, 0.2]], np.float32)
    found = refined(beliefs, says)
    assert found.verdict.tolist() == [FOREIGN] * 3
    assert found.suggestion.tolist() == [0, 2, 1]  # of the last the audit was sure
    assert found.suggestion_probability[0] == pytest.approx(0.1)  # that its label is right


def test_an_image_that_is_foreign_no_more_leaves_its_group():
    n = 20
    foreign = np.linspace(0.3, 0.7, n)
    torn = np.linspace(0, 1, n)
    torn[[2, 17]] = torn[[17, 2]]  # the one that looks foreign to the audit is a plain case
    probabilities = torn[:, None] * [0.5, 0.5] + (1 - torn[:, None]) * [0.99, 0.01]
    kinds = np.stack([1 - foreign, np.zeros(n), foreign], axis=1)
    beliefs = believed([0] * n, kinds, group=np.where(foreign > 0.5, 7, -1))
    found = refined(beliefs, probabilities.astype(np.float32), settings=Refine(1.0))
    left = (beliefs.verdict == FOREIGN) & (found.verdict != FOREIGN)
    assert np.flatnonzero(left).tolist() == [17]
    assert (found.foreign_group[left] == -1).all()
    stayed = (beliefs.verdict == FOREIGN) & (found.verdict == FOREIGN)
    assert (found.foreign_group[stayed] == 7).all()


def test_images_that_were_surely_foreign_are_judged_by_the_classifier_if_at_all():
    beliefs = believed([0, 0, 1, 1], [[0.9, 0.1, 0], [0.2, 0.8, 0], [0, 0, 1], [0, 0, 1]])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.05, 0.95], [0.9, 0.1]], np.float32)
    found = refined(beliefs, probabilities)
    assert np.allclose(found.kinds, beliefs.kinds)
    all_foreign = believed([0, 1], [[0, 0, 1]] * 2)
    assert np.allclose(refined(all_foreign, probabilities[:2]).kinds, all_foreign.kinds)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (
            np.full((3, 2), 0.5),
            r"probabilities are \(3, 2\); expected one row for each of 4 images",
        ),
        (np.full((4, 1), 1.0), r"probabilities are \(4, 1\); .* a column for each of 2 classes"),
        (np.full((4, 2), 2.0), "sum to 1 for each image; of these some do not"),
        (np.full((4, 2), np.nan), "sum to 1 for each image; of these some do not"),
    ],
)
def test_what_are_no_probabilities_of_these_images_is_refused(probabilities, message):
    beliefs = Beliefs.trusting(np.array([0, 1, 0, 1]))
    with pytest.raises(DataError, match=message):
        refined(beliefs, probabilities.astype(np.float32))


def test_one_class_is_not_doubted():
    with pytest.raises(DataError, match="of one class only"):
        refined(Beliefs.trusting(np.zeros(3, np.int64)), np.ones((3, 1), np.float32))


def test_a_weight_lies_between_0_and_1():
    with pytest.raises(ConfigError, match=r"weight is 1\.5; expected 0 to 1"):
        Refine(weight=1.5)


def four_images(**columns):
    """Clean, mislabeled, foreign and broken."""
    return made_findings(
        [CLEAN, MISLABELED, FOREIGN, Verdict.BROKEN], [0, 0, 1, 1],
        suggestion=[0, 2, 1, -1], reason=("A.", "B.", "C.", "It is cut off."),
        noise_rates=(NoiseRate("cat", 2, 0.45, (0.4, 0.5), 0.1, (0.0, 0.3)),
                     NoiseRate("dog", 2, 0.1, (0.0, 0.2), 0.8, (0.7, 0.9))),
        **columns,
    )  # fmt: skip


SAYS = np.array([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9], [0.3, 0.4, 0.3]], np.float32)


def test_refined_findings_say_what_both_said_and_leave_broken_images():
    findings = four_images()
    rows = np.array([0, 1, 2])
    found = refined_findings(findings, Beliefs.of_findings(findings), SAYS, rows)
    assert found.verdict.tolist() == [CLEAN, MISLABELED, FOREIGN, Verdict.BROKEN]
    assert found.suggestion.tolist()[:2] == [0, 2]
    assert np.isnan(found.probabilities[3]).all()
    assert found.reason == (
        "A. The trained classifier gives 'cat' 70 %; together, the label is right: 80 %.",
        "B. The trained classifier gives 'owl' 90 % and 'cat' 5 %; together, the label is wrong: "
        "80 %.",
        "C. The trained classifier gives 'dog' 40 %; together, none of the classes: 80 %.",
        "It is cut off.",
    )


def test_refined_findings_are_the_same_in_blocks_of_any_size(monkeypatch):
    findings = four_images()
    beliefs = Beliefs.of_findings(findings, np.array([False, True, False, False]))
    whole = refined_findings(findings, beliefs, SAYS, np.array([0, 1, 2]))
    monkeypatch.setattr(refine, "_BLOCK", 1)
    found = refined_findings(findings, beliefs, SAYS, np.array([0, 1, 2]))
    assert found.reason == whole.reason
    np.testing.assert_array_equal(found.probabilities, whole.probabilities)
    np.testing.assert_array_equal(found.suggestion_probability, whole.suggestion_probability)


def test_refined_findings_keep_what_a_person_decided():
    findings = four_images()
    beliefs = Beliefs.of_findings(findings, np.array([True, False, False, False]))
    found = refined_findings(findings, beliefs, SAYS, np.array([0, 1, 2]))
    assert found.reason[0] == "A."
    assert found.probabilities[0].tolist() == findings.probabilities[0].tolist()


def test_refined_findings_call_an_image_without_label_clean_or_foreign():
    findings = made_findings(
        [CLEAN, FOREIGN, CLEAN], [-1, -1, 0], suggestion=[1, 1, 0], reason=("A.", "B.", "C."),
        probabilities=[[0.9, 0, 0.1], [0.3, 0, 0.7], [0.6, 0.3, 0.1]],
    )  # fmt: skip
    found = refined_findings(findings, Beliefs.of_findings(findings), SAYS[[2, 2, 0]])
    assert found.verdict.tolist() == [CLEAN, FOREIGN, CLEAN]
    assert not found.probabilities[:2, MISLABELED].any()
    assert found.reason[0] == "A. The trained classifier gives 'dog' 40 %."


def test_noise_rates_are_mean_probabilities_in_intervals_that_hold_them():
    findings = four_images()
    found = refined_findings(findings, Beliefs.of_findings(findings), SAYS, np.array([0, 1, 2]))
    cat, dog = found.noise_rates
    means = found.probabilities[:2].mean(axis=0)
    assert (cat.mislabeled, cat.foreign) == pytest.approx((means[1], means[2]), abs=1e-6)
    assert cat.mislabeled_interval == pytest.approx((0.4, 0.5))
    assert cat.foreign_interval == pytest.approx((0.0, 0.3))
    assert dog.foreign == pytest.approx(0.8)  # of the one that can be read
    wide = refined_findings(
        replace(findings, noise_rates=(replace(cat, mislabeled_interval=(0.6, 0.7)), dog)),
        Beliefs.of_findings(findings), SAYS, np.array([0, 1, 2]),
    )  # fmt: skip
    assert wide.noise_rates[0].mislabeled_interval == pytest.approx((means[1], 0.7), abs=1e-6)


def test_a_class_whose_images_are_all_broken_keeps_its_rate():
    findings = four_images()
    broken = replace(
        findings, verdict=np.array([0, 1, 3, 3], np.int8),
        probabilities=np.where([[0], [0], [1], [1]], np.nan, findings.probabilities),
    )  # fmt: skip
    found = refined_findings(broken, Beliefs.of_findings(broken), SAYS[:2], np.array([0, 1]))
    assert found.noise_rates[1] == findings.noise_rates[1]
