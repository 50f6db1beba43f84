"""The parts of the robust recipe: Bayes' rule, foreign images, noise rates, reasons, trust."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, sampled_from

from labelsieve.methods.sncf.foreign import foreign_groups, foreign_share, foreign_side
from labelsieve.methods.sncf.noise_rates import noise_rates
from labelsieve.methods.sncf.posterior import posterior, sharpened
from labelsieve.methods.sncf.reasons import reasons
from labelsieve.methods.sncf.transition import DOUBT
from labelsieve.methods.sncf.trust import doubts, label_gain, label_skill, trust
from labelsieve.records import Neighbors, NoiseRate, Verdict
from toy import structured


def slow_posterior(probabilities, transition, foreign, prior, label):
    """Bayes' rule by enumeration over true classes, for one image."""
    chance = [transition[c][label] if label >= 0 else 1.0 for c in range(len(prior))]
    weights = [(1 - foreign) * p * a for p, a in zip(probabilities, chance, strict=True)]
    stray = foreign * (prior[label] if label >= 0 else 1.0)
    total = sum(weights) + stray
    classes = [w / total for w in weights]
    clean = classes[label] if label >= 0 else sum(classes)
    return [clean, sum(classes) - clean, stray / total], classes


@given(seed=integers(0, 10_000), n=integers(1, 6), n_classes=integers(1, 5))
def test_posterior_is_bayes_rule(seed, n, n_classes):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(n_classes), n)
    turns = rng.dirichlet(np.ones(n_classes), n_classes)
    foreign, prior = rng.random(n), rng.dirichlet(np.ones(n_classes))
    labels = rng.integers(-1, n_classes, n)
    kinds, classes = posterior(p, turns, foreign, prior, labels)
    for i in range(n):
        expected = slow_posterior(p[i], turns, foreign[i], prior, labels[i])
        assert kinds[i] == pytest.approx(expected[0], abs=1e-9)
        assert classes[i] == pytest.approx(expected[1], abs=1e-9)
    assert np.allclose(kinds.sum(axis=1), 1)
    assert np.allclose(classes.sum(axis=1) + kinds[:, 2], 1)


def test_a_label_that_is_often_wrong_says_less():
    turns = np.array([[0.99, 0.01], [0.01, 0.99]]), np.array([[0.6, 0.4], [0.4, 0.6]])
    p, prior = np.array([[0.2, 0.8]]), np.array([0.5, 0.5])
    trusted, distrusted = (
        posterior(p, t, np.zeros(1), prior, np.array([0]))[0][0, Verdict.MISLABELED] for t in turns
    )
    assert trusted == pytest.approx(0.8 * 0.01 / (0.8 * 0.01 + 0.2 * 0.99))
    assert distrusted == pytest.approx(0.8 * 0.4 / (0.8 * 0.4 + 0.2 * 0.6))


@given(power=floats(0.7, 2.9), share=sampled_from([0.0, 0.3]))
def test_sharpened_finds_the_power_whatever_is_foreign_and_keeps_the_order(power, share):
    rng = np.random.default_rng(3)
    modest = rng.dirichlet(np.full(4, 0.7), 20_000).astype(np.float32)
    true = modest**power / (modest**power).sum(axis=1, keepdims=True)
    labels = (true.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1).clip(0, 3)
    foreign = (rng.random(20_000) < share).astype(np.float32)
    labels[foreign > 0] = rng.integers(0, 4, int(foreign.sum()))
    found = sharpened(modest[None], np.eye(4)[None], [foreign], np.full(4, 0.25), labels)[0]
    assert np.allclose(found.sum(axis=1), 1, atol=1e-4)
    assert np.array_equal(found.argmax(axis=1), modest.argmax(axis=1))
    assert np.abs(found - true).mean() < 0.02


def test_foreign_share_by_hand():
    prior = np.full(10, 0.1)
    alike, sure, torn = np.full(10, 0.1), np.eye(10)[3], (np.eye(10)[3] + np.eye(10)[5]) / 2
    found = foreign_share(np.stack([alike, sure, torn]).astype(np.float32), prior, floor=0.3)
    assert found == pytest.approx([1 - (2 / 10) ** 2, 0, 0], abs=1e-6)


def test_foreign_share_counts_classes_by_their_size():
    prior = np.array([0.7, 0.1, 0.1, 0.1])
    found = foreign_share(np.stack([prior, np.full(4, 0.25)]).astype(np.float32), prior, floor=0.3)
    assert found[0] == pytest.approx(1 - (2 / 4) ** 2, abs=1e-6)  # as the set is
    assert found[1] < found[0]


def test_two_classes_hardly_speak_of_foreign_images():
    half = np.full((1, 2), 0.5, np.float32)
    assert foreign_share(half, np.array([0.5, 0.5]), floor=0.3)[0] <= 0.05


def test_foreign_share_leaves_absent_classes_out():
    p = np.array([[0.5, 0.3, 0.2]], np.float32)
    prior = np.array([0.5, 0.3, 0.2])
    wider = foreign_share(np.append(p, [[0]], axis=1).astype("f"), np.append(prior, 0), floor=0.3)
    assert wider == pytest.approx(foreign_share(p, prior, floor=0.3))


def suspicion_of(toy, rng):
    return (toy.foreign + rng.normal(0, 0.4, len(toy.foreign))).astype(np.float32)


def test_the_hyperplane_is_found_where_labels_beyond_mean_nothing():
    toy = structured(3000, 4)
    rng = np.random.default_rng(0)
    gain = np.where(toy.foreign, rng.normal(-0.1, 0.5, 3000), 1.0)
    beyond = foreign_side(toy.features, suspicion_of(toy, rng), gain)
    assert beyond is not None
    assert ((beyond > 0.5) == toy.foreign).mean() > 0.97


def test_the_hyperplane_is_not_believed_where_labels_beyond_can_be_predicted():
    toy = structured(3000, 4)
    beyond = foreign_side(toy.features, suspicion_of(toy, np.random.default_rng(0)), np.ones(3000))
    assert beyond is None


def test_no_hyperplane_from_fewer_rows_than_dimensions_need():
    toy = structured(400, 4)
    assert foreign_side(toy.features, toy.foreign.astype("f"), np.full(400, -1.0)) is None


def test_foreign_groups_are_numbered_from_the_largest():
    rng = np.random.default_rng(0)
    centers = np.linalg.qr(rng.normal(size=(40, 4)))[0].T
    kind = np.repeat([0, 1, 2, 3], [40, 90, 60, 30])
    rows = centers[kind] + 0.05 * rng.normal(size=(220, 40))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    groups = foreign_groups(rows, kind < 3, np.ones(220, np.float32))
    assert (groups[kind == 3] == -1).all()  # not foreign
    sizes = np.bincount(groups[groups >= 0])
    assert (np.diff(sizes) <= 0).all()
    for group in range(len(sizes)):
        assert len(np.unique(kind[groups == group])) == 1
    assert (groups[kind < 3] >= 0).mean() > 0.8


def test_a_group_is_more_alike_than_foreign_images_usually_are():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(600, 40))
    rows[:60] = 6 * rng.normal(size=40) + 3 * rng.normal(size=(60, 40))  # one logo, many times
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    groups = foreign_groups(rows, np.full(600, True), np.ones(600, np.float32))
    assert (groups[60:] >= 0).mean() < 0.05
    assert (groups[:60] >= 0).mean() > 0.5


def test_few_foreign_images_form_no_group():
    foreign = np.arange(50) < 10
    assert (foreign_groups(np.eye(50, dtype="f"), foreign, np.ones(50, "f")) == -1).all()


def test_noise_rates_by_hand():
    members = np.array(
        [
            [[0.9, 0.1, 0.0], [0.7, 0.3, 0.0], [1.0, 0.0, 0.0]],
            [[0.7, 0.3, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]],
        ]
    )
    most = np.array([0.9, 0.95, 0.0])
    belief, labels = np.array([1.0, 1.0, 0.0]), np.array([0, 0, 2])
    first, second = noise_rates(members, most, belief, labels, ["cat", "dog", "eel"])
    assert (first.class_name, first.n_images) == ("cat", 2)
    assert first.mislabeled == pytest.approx((0.2 + 0.4) / 2)
    low, high = first.mislabeled_interval
    chance = 1.96 * np.sqrt(0.1 * 0.9 + 0.3 * 0.7) / 2
    assert low == pytest.approx(max(0, 0.2 - chance - DOUBT))
    assert high == pytest.approx(min(1, 0.4 + 1.96 * np.sqrt(0.3 * 0.7 + 0.25) / 2))
    assert second == NoiseRate("eel", 1, 0.0, (0.0, 1.0), 0.0, (0.0, 1.0))  # nothing is known


def one_reason(verdict, probabilities, suggestion, likely, near, label, belief=1.0):
    labels = np.array([label, *near])
    neighbors = Neighbors(
        np.tile(np.arange(1, 11), (11, 1)), np.ones((11, 10), np.float32)
    )  # of row 0
    repeat = np.repeat
    return reasons(
        repeat(np.int8(verdict), 11),
        np.tile(np.array(probabilities, np.float32), (11, 1)),
        repeat(suggestion, 11),
        repeat(np.float32(likely), 11),
        neighbors,
        labels,
        ["cat", "dog", "eel"],
        repeat(belief, 11),
    )[0]


NEAR = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2]


@pytest.mark.parametrize(
    ("verdict", "probabilities", "suggestion", "likely", "label", "text"),
    [
        (Verdict.MISLABELED, [0.03, 0.96, 0.01], 1, 0.91, 0,
         "8 of its 10 nearest images are labeled 'dog'; 'cat' gets 3 %, 'dog' 91 %."),
        (Verdict.MISLABELED, [0.4, 0.55, 0.05], 1, 0.3, 0,
         "8 of its 10 nearest images are labeled 'dog'; 'cat' gets 40 %, 'dog' 30 %, "
         "all but 'cat' together 55 %."),
        (Verdict.CLEAN, [0.4, 0.35, 0.25], 2, 0.4, 2,
         "1 of its 10 nearest images is labeled 'eel' as well, which gets 40 %; "
         "no other gets more."),
        (Verdict.CLEAN, [0.999, 0.001, 0.0], 1, 0.999, 1,
         "8 of its 10 nearest images are labeled 'dog' as well, which gets over 99 %."),
        (Verdict.FOREIGN, [0.2, 0.1, 0.7], 1, 0.1, 0,
         "Its 10 nearest images carry 3 different labels, none more than 8 times; "
         "'cat' gets 20 %, none of the classes 70 %."),
        (Verdict.FOREIGN, [0.3, 0.0, 0.7], 1, 0.1, -1,
         "Its 10 nearest images carry 3 different labels, none more than 8 times; "
         "none of the classes 70 %."),
        (Verdict.CLEAN, [0.9, 0.0, 0.1], 1, 0.004, -1,
         "8 of its 10 nearest images are labeled 'dog', which gets under 1 %; "
         "it has no label itself."),
    ],
)  # fmt: skip
def test_reasons_are_plain_sentences(verdict, probabilities, suggestion, likely, label, text):
    assert one_reason(verdict, probabilities, suggestion, likely, NEAR, label) == text


def test_skill_is_the_share_of_entropy_explained():
    prior, labels = np.array([0.5, 0.5]), np.tile([0, 1], 500)
    sure = np.eye(2)[labels]
    assert label_skill(label_gain(sure, prior, labels), prior) == pytest.approx(1)
    assert label_skill(label_gain(np.full((1000, 2), 0.5), prior, labels), prior) == 0


def test_small_classes_and_weak_features_are_trusted_less():
    labels = np.array([0] * 95 + [1] * 5 + [-1])
    believed = trust(1.0, labels, 2, doubt_images=5)
    assert believed[[0, 95, 100]] == pytest.approx([0.95, 0.5, 1])
    assert (trust(-0.1, labels, 2, doubt_images=5) == 0).all()


def test_doubts_name_what_is_wrong():
    labels = np.array([0] * 95 + [1] * 5)
    rate = NoiseRate("cat", 95, 0.4, (0.3, 0.5), 0.2, (0.1, 0.3))
    said = doubts(0.01, labels, ["cat", "dog"], [rate], called=0.2, hyperplane=False)
    assert [text.partition(":")[0].partition(" (")[0] for text in said[:3]] == [
        "The features hardly predict the labels", "'dog'", "'cat'",
    ]  # fmt: skip
    assert "fewer than 10 images" in said[1]
    assert "more than half" in said[2]
    assert said[3].startswith("With 2 classes, foreign images are hard to tell")
    many = np.repeat(np.arange(6), 20)
    assert doubts(0.5, many, list("abcdef"), [], called=0.0, hyperplane=False) == ()


def test_what_is_not_believed_is_not_explained():
    said = one_reason(Verdict.CLEAN, [1, 0, 0], 1, 1.0, NEAR, 1, belief=0.1)
    assert said == "Not judged: too little speaks for or against its label."


def test_few_calls_are_doubted():
    labels = np.repeat(np.arange(6), 100)
    said = doubts(0.6, labels, list("abcdef"), [], called=0.01, hyperplane=False)
    assert [text[:44] for text in said] == ["Only 1.0 % of the labels are called wrong. W"]
