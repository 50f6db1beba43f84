"""Training on labels as they are: each loss against its definition, mixing, and which images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import reference_paper_training as slow
from labelsieve.data.batches import Batch, Batches, of_rows, resident
from labelsieve.data.draws import batch_generator
from labelsieve.data.mixing import mixing
from labelsieve.data.samplers import shuffled
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import Classifier
from labelsieve.features.shown import WEAK, Views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf import plain_training
from labelsieve.methods.sncf.classifier import NoisyClassifier, Prepared
from labelsieve.methods.sncf.plain_training import Plain, elr_step, plain_step
from labelsieve.methods.sncf.work import Work
from made_colors import states, tiny_network
from made_noisy import (
    N_CLASSES,
    QUICK,
    Noisy,
    accuracy_test,
    noisy,
    trained,
    trained_on_rows,
    views,
    weights,
    with_training,
)
from processes import together

OBJECTIVES = {
    "ce": Plain(),
    "mixup": Plain(alpha=1.0),
    "gce": Plain(loss="gce"),
    "mixed-gce": Plain(loss="gce", alpha=0.4),
    "elr": Plain(loss="elr"),
    "clean": Plain(on="clean"),
}


@pytest.fixture(scope="module")
def made() -> Noisy:
    return noisy()


def work_of(made: Noisy) -> Work:
    runtime = Runtime.start()
    with drawn_from(3):
        classifier = Classifier(16, N_CLASSES)
    model = Prepared(NoisyClassifier(tiny_network(), classifier), runtime)
    model.train()
    return Work(
        model, None, views(QUICK), made.beliefs, made.rows, N_CLASSES, QUICK.training, runtime, 0,
        resident(made.pixels),
    )  # fmt: skip


def batch_of(made: Noisy) -> Batch:
    return next(Batches(resident(made.pixels), shuffled(made.rows, 20, 0)).epoch(3))


def logits_of(work: Work, batch: Batch) -> torch.Tensor:
    """What a twin of the model says of the first weak views, in training mode."""
    return work.model(work.views.weak(batch.images, batch.rows, batch.epoch, WEAK[0])).logits


# The step


def test_without_mixing_the_loss_is_the_mean_of_one_weak_view(made):
    batch, twin = batch_of(made), work_of(made)
    logits = logits_of(twin, batch)
    labels = torch.from_numpy(made.beliefs.labels)[batch.rows]
    p = logits.softmax(1)[torch.arange(20), labels]
    for objective, losses in ((Plain(), -p.log()), (Plain("gce", q=0.4), (1 - p**0.4) / 0.4)):
        work = work_of(made)
        found = plain_step(objective, work)(batch)["loss"]
        torch.testing.assert_close(found, losses.mean())
        assert torch.equal(states(work.model.bare), states(twin.model.bare))  # one pass


@pytest.mark.parametrize("name", ["mixup", "mixed-gce"])
def test_mixtures_learn_both_labels_as_they_are_mixed(made, name):
    objective, batch = OBJECTIVES[name], batch_of(made)
    found = plain_step(objective, work_of(made))(batch)["loss"].item()
    twin = work_of(made)
    images = twin.views.weak(batch.images, batch.rows, batch.epoch, WEAK[0])
    factor, order = mixing(
        batch_generator(0, batch.epoch, batch.step), 20, objective.alpha, at_least_half=False
    )
    mixed = torch.stack(slow.mixed(list(images), order.tolist(), factor))
    logits = twin.model(mixed).logits.tolist()
    labels = made.beliefs.labels[batch.rows.numpy()]
    if name == "mixup":
        targets = [slow.one_hot(label, N_CLASSES) for label in labels]
        expected = slow.classification_loss(logits, targets, order.tolist(), factor)
    else:
        terms = [
            share * (1 - slow.softmax(row)[label] ** 0.7) / 0.7
            for i, row in enumerate(logits)
            for share, label in ((factor, labels[i]), (1 - factor, labels[order[i]]))
        ]
        expected = sum(terms) / 20
    assert found == pytest.approx(expected, abs=1e-5)


def test_elr_remembers_what_it_said_before_and_is_pulled_there(made):
    batch = batch_of(made)
    work, twin = work_of(made), work_of(made)
    before = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(3), len(made.truth)))
    averages = before.float().clone()
    objective = Plain(loss="elr", strength=2.0, keep=0.6)
    found = elr_step(objective, work, averages)(batch)
    logits = logits_of(twin, batch)
    total = 0.0
    expected = before.float().clone()
    for i, row in enumerate(batch.rows.tolist()):
        p = slow.softmax(logits[i].tolist())
        t = [0.6 * b + 0.4 * q for b, q in zip(before[row].tolist(), p, strict=True)]
        expected[row] = torch.tensor(t)
        agreement = sum(a * b for a, b in zip(p, t, strict=True))
        total += -math.log(p[made.beliefs.labels[row]]) + 2.0 * math.log(1 - agreement)
    assert found["loss"].item() == pytest.approx(total / 20, abs=1e-5)
    torch.testing.assert_close(averages, expected)
    assert int((averages != before.float()).any(1).sum()) == 20  # of the images of the batch alone


# Which images


@pytest.mark.parametrize(("on", "kinds"), [("all", {0, 1, 2}), ("clean", {0})])
def test_images_are_chosen_by_label_and_belief(made, on, kinds):
    labels, beliefs = made.beliefs.labels.copy(), made.beliefs.kinds.copy()
    unlabeled = made.rows[:7]
    labels[unlabeled] = -1
    beliefs[unlabeled] = [0, 1, 0]
    work = work_of(made)._replace(beliefs=replace(made.beliefs, labels=labels, kinds=beliefs))
    (phase,) = Plain(on=on).phases(work._replace(training=replace(QUICK.training, batch_size=1)))
    given = np.concatenate(list(phase.sampler.epoch(0)))
    assert len(set(given.tolist())) == len(given)
    mine = made.rows[7:]
    expected = mine[np.isin(made.beliefs.verdict[mine], list(kinds))]
    assert sorted(given.tolist()) == expected.tolist()


def test_what_a_person_called_wrong_is_not_learned(made):
    mislabeled, foreign = (made.rows[made.beliefs.verdict[made.rows] == kind] for kind in (1, 2))
    refuted = np.concatenate([mislabeled[:5], foreign[:5]])
    certain = np.zeros(len(made.beliefs), bool)
    certain[refuted] = certain[made.rows[made.beliefs.verdict[made.rows] == 0][:5]] = True
    work = work_of(made)._replace(beliefs=replace(made.beliefs, certain=certain))
    (phase,) = Plain().phases(work._replace(training=replace(QUICK.training, batch_size=1)))
    given = np.concatenate(list(phase.sampler.epoch(0)))
    assert sorted(given.tolist()) == np.setdiff1d(made.rows, refuted).tolist()


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("all", "none of 192 images has a label to learn from. Give labels."),
        ("clean", "none of 192 images is called clean to learn from. Look at the audit"),
    ],
)
def test_nothing_to_learn_from_is_an_error(made, on, message):
    labels, kinds = np.full_like(made.beliefs.labels, -1), np.zeros_like(made.beliefs.kinds)
    kinds[:, 1] = 1
    beliefs = replace(made.beliefs, labels=labels, kinds=kinds)
    with pytest.raises(DataError, match=message):
        Plain(on=on).phases(work_of(made)._replace(beliefs=beliefs))


# What it learns


def keeping(test, told: dict[str, float]):
    """The test, its last values kept."""

    def kept(predict):
        told.update(test(predict))
        return told

    return kept


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_images_and_rows(made, name):
    told: dict[str, float] = {}
    settings = with_training(replace(QUICK, objective=OBJECTIVES[name]), epochs=4)
    trained(made, settings, test=keeping(accuracy_test(made), told))
    assert told["test_accuracy"] > 0.95
    found = trained_on_rows(made, with_training(settings, epochs=20))
    known = made.truth[made.rows] >= 0
    assert (found.probabilities.argmax(1) == made.truth[made.rows])[known].mean() > 0.9


def test_wrong_labels_are_fitted_by_cross_entropy_and_resisted_by_the_others():
    """On rows of so many columns that a linear classifier can fit what it is told."""
    made = noisy(n=60, n_mislabeled=30, n_foreign=0, n_broken=0, n_test=300)
    wide = np.random.default_rng(0).normal(size=(len(made.truth), 60)).astype(np.float32)
    wide[:, :3] += 2.5 * np.eye(3, dtype=np.float32)[made.truth]
    made = made._replace(features=wide)
    wrong = made.beliefs.verdict[made.rows] == 1
    test, fitted, accuracies = accuracy_test(made, of_rows(made.features)), {}, {}
    for name in ("ce", "gce", "elr", "clean"):
        told: dict[str, float] = {}
        settings = with_training(replace(QUICK, objective=OBJECTIVES[name]), epochs=20)
        found = trained_on_rows(made, settings, test=keeping(test, told))
        said = found.probabilities.argmax(1) == made.beliefs.labels[made.rows]
        fitted[name], accuracies[name] = said[wrong].mean(), told["test_accuracy"]
    assert fitted["ce"] > 0.95
    assert max(fitted["gce"], fitted["elr"]) < 0.85
    assert fitted["clean"] < 0.1
    assert min(accuracies["gce"], accuracies["elr"]) > accuracies["ce"] + 0.05
    assert accuracies["clean"] > accuracies["ce"] + 0.2


def test_many_averages_are_held_in_half_precision_and_teach_the_same(made, monkeypatch):
    settings = with_training(replace(QUICK, objective=OBJECTIVES["elr"], projection="none"))
    full = trained(made, settings)
    work = work_of(made)
    (phase,) = Plain("elr").phases(work)
    assert phase.state["averages"].dtype == torch.float32
    monkeypatch.setattr(plain_training, "MOST_IN_FULL", len(made.beliefs) * N_CLASSES - 1)
    (phase,) = Plain("elr").phases(work)
    assert phase.state["averages"].dtype == torch.float16
    half = trained(made, settings)
    assert not np.array_equal(half.probabilities, full.probabilities)
    # rounding to 1 in 2,048 is felt, as another order of images would be, and no more
    assert (half.probabilities.argmax(1) == full.probabilities.argmax(1)).mean() > 0.95
    np.testing.assert_allclose(half.probabilities, full.probabilities, atol=0.1)


# Processes


def doubled(shown: Views) -> Views:
    weak, _, clean = (lambda *given, view=view: view(*given).double() for view in shown)
    return Views(weak, None, clean)


def steps_here(name: str) -> dict:
    """All weights after some epochs, in float64."""
    made = noisy(n=61, n_mislabeled=25, n_foreign=25)
    settings = with_training(
        replace(QUICK, objective=OBJECTIVES[name], projection="none", average=0.5, clean_norms=50),
        batch_size=12,
    )  # fmt: skip
    found = trained(
        made, settings, runtime=Runtime.start(), network=tiny_network().double(),
        views=doubled(views(settings)),
    )  # fmt: skip
    return {"state": weights(found), "said": found.probabilities}


@pytest.mark.parametrize("name", ["ce", "mixup", "elr"])
def test_two_processes_learn_what_one_does(name):
    alone = steps_here(name)
    for found in together(steps_here, name):
        # ELR's averages are float32
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["said"], alone["said"], atol=1e-6)


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "loss is 'mse'; expected one of ce, gce, elr"),
        ({"on": "none"}, "on is 'none'; expected one of all, clean"),
        ({"alpha": -1.0}, "alpha is -1.0 and strength 3.0; expected 0 or more"),
        ({"strength": -1.0}, "alpha is 0.0 and strength -1.0; expected 0 or more"),
        ({"q": 0.0}, "q is 0.0; expected 0 < q <= 1"),
        ({"keep": 1.0}, "keep is 1.0; expected 0 <= keep < 1"),
        ({"loss": "elr", "alpha": 1.0}, "ELR averages what is said of an image"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Plain(**changes)


def test_cross_entropy_of_torch_is_what_the_step_has(made):
    batch = batch_of(made)
    labels = torch.from_numpy(made.beliefs.labels)[batch.rows]
    found = plain_step(Plain(), work_of(made))(batch)["loss"]
    torch.testing.assert_close(found, cross_entropy(logits_of(work_of(made), batch), labels))
