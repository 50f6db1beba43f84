"""The robust objective: its targets, its one step, its stream, and where there is nothing to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference_robust_training as slow
from labelsieve.data.batches import Batch, Batches, resident
from labelsieve.data.draws import batch_generator
from labelsieve.data.mixing import mixing
from labelsieve.data.samplers import shuffled
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import Classifier, small_head
from labelsieve.features.shown import STRONG, WEAK, Views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.optimizers import Average
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf import robust_targets
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classifier import NoisyClassifier, Prepared
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.robust_targets import Memory, Targets, class_evidence, combined
from labelsieve.methods.sncf.robust_training import Robust
from labelsieve.methods.sncf.thinned_stream import thinned
from labelsieve.methods.sncf.work import Work
from made_colors import states, tiny_network
from made_noisy import (
    N_CLASSES,
    QUICK,
    Noisy,
    accuracy_test,
    logs,
    noisy,
    trained,
    trained_on_rows,
    views,
    weights,
    with_training,
)
from processes import together

ROBUST = replace(QUICK, objective=Robust(), average=0.8)
EVERYTHING = Robust(
    evidence="alternate", pseudo_loss=True, confidence=0.5, strong_weight=0.5, balance_weight=0.3,
    mislabeled_rate=0.7, foreign_rate=0.4, ramp=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Noisy:
    return noisy()


def doubted(beliefs: Beliefs, seed=0, certain=0.0) -> Beliefs:
    """Kinds and suggestions that are soft, and partly wrong."""
    random, n = np.random.default_rng(seed), len(beliefs)
    kinds = random.dirichlet([0.4] * 3, n) * 0.5 + 0.5 * beliefs.kinds
    decided = random.random(n) < certain
    kinds[decided] = beliefs.kinds[decided]
    return replace(
        beliefs, kinds=kinds.astype(np.float32), certain=decided,
        suggestion=np.where(random.random(n) < 0.2, -1, random.integers(0, N_CLASSES, n)),
        suggestion_probability=random.random(n).astype(np.float32),
    )  # fmt: skip


def work_of(made: Noisy, beliefs: Beliefs | None = None, average: float = 0.5, **changes) -> Work:
    """What `train_classifier` gives an objective, of a model with its first weights."""
    runtime = Runtime.start()
    with drawn_from(3):
        classifier, head = Classifier(16, N_CLASSES), small_head(16)
    model = Prepared(NoisyClassifier(tiny_network(), classifier, head), runtime)
    model.train()
    work = Work(
        model, Average(model.bare, average) if average else None, views(QUICK),
        beliefs or made.beliefs, made.rows, N_CLASSES, QUICK.training, runtime, 0,
        resident(made.pixels),
    )  # fmt: skip
    return work._replace(**changes)


def batch_of(made: Noisy, epoch=2, step=1) -> Batch:
    batches = Batches(resident(made.pixels), shuffled(made.rows, 24, 0))
    return next(batches.epoch(epoch, first=step))


# What the audit says of a class


@given(st.data())
def test_evidence_is_what_the_definition_says(data):
    n_classes = data.draw(st.integers(2, 5))
    label = data.draw(st.integers(-1, n_classes - 1))
    kinds = np.array(data.draw(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3)))
    kinds = kinds / kinds.sum() if kinds.sum() > 0.01 else np.array([0.2, 0.3, 0.5])
    if label < 0:
        kinds = np.array([0, kinds[0] + kinds[1], kinds[2]])
    kinds = kinds.astype(np.float32)
    suggestion, certain = data.draw(st.integers(-1, n_classes - 1)), data.draw(st.booleans())
    probability = np.float32(data.draw(st.floats(0.0, 1.0)))
    beliefs = Beliefs(
        np.array([label]), kinds[None], np.array([suggestion]), probability[None],
        np.array([-1], np.int32), np.array([certain]),
    )  # fmt: skip
    found = class_evidence(beliefs, n_classes)[0]
    expected = slow.evidence(label, kinds.tolist(), suggestion, probability, certain, n_classes)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.sum() == pytest.approx(1, abs=1e-5)


def test_a_likely_right_label_and_a_likely_suggestion_have_their_probabilities():
    beliefs = Beliefs(
        np.array([0, 0]), np.array([[0.6, 0.2, 0.2], [0.1, 0.7, 0.2]], np.float32),
        np.array([0, 2]), np.array([0.6, 0.5], np.float32), np.full(2, -1, np.int32),
        np.zeros(2, bool),
    )  # fmt: skip
    found = class_evidence(beliefs, 4)
    np.testing.assert_allclose(found[0], np.array([0.6, 0.2 / 3, 0.2 / 3, 0.2 / 3]) / 0.8, 1e-5)
    np.testing.assert_allclose(found[1], np.array([0.1, 0.1, 0.5, 0.1]) / 0.8, 1e-5)


@given(st.integers(2, 6), st.integers(0, 10_000), st.sampled_from([7, 1000]))
def test_three_numbers_an_image_are_the_evidence_of_all_classes_bit_for_bit(n_classes, seed, block):
    rng, n = np.random.default_rng(seed), 60
    labels, suggestion = (rng.integers(-1, n_classes, n) for _ in range(2))
    kinds = rng.dirichlet([0.5] * 3, n).astype(np.float32)
    kinds[labels < 0, 1] += kinds[labels < 0, 0]
    kinds[labels < 0, 0] = 0
    beliefs = Beliefs(
        labels, kinds, suggestion, rng.random(n).astype(np.float32),
        np.full(n, -1, np.int32), rng.random(n) < 0.3,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust_targets, "_BLOCK", block)
        found = Targets(Robust(), beliefs, n_classes, Memory(n, torch.device("cpu")))
    whole = class_evidence(beliefs, n_classes)
    rows = torch.from_numpy(rng.permutation(n)[:40])
    assert np.array_equal(found._evidence(rows).numpy(), whole[rows])
    prior = np.einsum("n,nc->c", 1 - kinds[:, 2], whole, dtype=np.float64).astype(np.float32)
    np.testing.assert_allclose(found.prior.numpy(), prior, rtol=1e-6 if block < n else 0)
    held = [value for value in vars(found).values() if isinstance(value, torch.Tensor)]
    assert max(value.numel() for value in held) <= 3 * n  # and not n * n_classes


def test_labels_and_suggestions_that_are_no_classes_are_refused():
    beliefs = Beliefs.trusting(np.array([0, 3]))
    with pytest.raises(
        DataError, match="labels up to 3 and suggestions up to -1; expected classes"
    ):
        class_evidence(beliefs, 3)
    with pytest.raises(DataError, match="suggestions up to 5"):
        class_evidence(replace(beliefs, suggestion=np.array([5, -1])), 4)


# Two witnesses


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from([0.0, 1, 3]))
def test_witnesses_are_combined_by_bayes_rule(seed, audit_power, guess_power):
    random = np.random.default_rng(seed)
    rows = random.dirichlet([0.5] * 4, 3)
    rows[0, 2] = 0
    logits = random.normal(0, 4, (3, 4))
    found = combined(
        torch.from_numpy(rows), torch.from_numpy(logits), audit_power, guess_power
    ).tolist()
    for row, said, ours in zip(rows, logits, found, strict=True):
        assert ours == pytest.approx(
            slow.combined(row.tolist(), said.tolist(), audit_power, guess_power), abs=1e-9
        )


def test_what_a_person_ruled_out_stays_out_however_sure_the_network_is():
    evidence = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.4, 0.6]])
    logits = torch.tensor([[0.0, 400.0, 0.0], [400.0, 0.0, -400.0]])
    for audit_power in (0.0, 1.0):
        found = combined(evidence, logits, audit_power)
        assert found[0].tolist() == [1, 0, 0]
        assert found[1].tolist() == pytest.approx([0, 1, 0])
        assert found.isfinite().all()
    with pytest.raises(ConfigError, match="powers are -1 and 1.0; expected 0 or more"):
        combined(evidence, logits, -1)


def test_a_witness_that_knows_nothing_changes_nothing():
    known = torch.tensor([[0.7, 0.2, 0.1]])
    even = torch.full((1, 3), 1 / 3)
    torch.testing.assert_close(combined(known, torch.zeros(1, 3)), known)
    torch.testing.assert_close(combined(even, known.log()), known)
    torch.testing.assert_close(combined(known, torch.randn(1, 3), 1.0, 0.0), known)


# The step


@pytest.mark.parametrize("trust", [0.0, 0.6])
@pytest.mark.parametrize("strong", [0.0, 0.7])
def test_the_step_is_what_it_says_in_plain_numbers(made, trust, strong):
    settings = Robust(
        audit_power=0.5, guess_power=2.0, strong_weight=strong, balance_weight=0.2, ramp=0.5,
        temperature=0.4, contrast_weight=0.8, foreign_rate=1.0,
    )  # fmt: skip
    beliefs = doubted(made.beliefs, certain=0.2)
    work, twin = work_of(made, beliefs), work_of(made).model
    (phase,) = settings.phases(work)
    n_batches = len(phase.sampler)
    begun = trust * settings.ramp * phase.training.epochs
    batch = batch_of(made)._replace(epoch=int(begun), step=round(begun % 1 * n_batches))
    trust = min(1, (batch.epoch + batch.step / n_batches) / (settings.ramp * phase.training.epochs))
    found = phase.step(batch)

    rows, shown, epoch = batch.rows.tolist(), work.views, batch.epoch
    first, second = (shown.weak(batch.images, batch.rows, epoch, i) for i in WEAK)
    with torch.no_grad():
        said = work.average(second).logits.tolist()
    columns = zip(
        beliefs.labels, beliefs.kinds, beliefs.suggestion, beliefs.suggestion_probability,
        beliefs.certain, strict=True,
    )  # fmt: skip
    everything = [slow.evidence(*column, N_CLASSES) for column in columns]
    targets = [
        slow.combined(everything[row], logits, 1 - trust * 0.5, trust * 2)
        for row, logits in zip(rows, said, strict=True)
    ]
    labels = [int(beliefs.labels[row]) for row in rows]
    pairs = [slow.label_first(*each, trust) for each in zip(targets, labels, strict=True)]
    targets = [target for target, _ in pairs]
    known = [
        (1 - float(beliefs.kinds[row, 2])) * left
        for row, (_, left) in zip(rows, pairs, strict=True)
    ]
    factor, order = mixing(batch_generator(work.seed, epoch, batch.step), len(rows))
    mixed = torch.lerp(first[order], first, factor)
    strongly = shown.strong(batch.images, batch.rows, epoch, STRONG[0])
    answers = twin(torch.cat([mixed, strongly]), project=True)
    logits, others = (each.tolist() for each in answers.logits.chunk(2))
    anchors, candidates = (each.tolist() for each in answers.projections.chunk(2))
    order = order.tolist()
    loss = slow.classification_loss(logits, targets, known, order, factor)
    assert found["classification"].item() == pytest.approx(loss, abs=1e-5)
    if strong:
        unmixed = slow.strong_loss(others, targets, known)
        loss = (loss + strong * unmixed) / (1 + strong)
    prior = [
        sum((1 - k[2]) * row[c] for k, row in zip(beliefs.kinds, everything, strict=True))
        for c in range(N_CLASSES)
    ]
    balance = slow.balance_loss(logits, known, prior)
    groups, sure = [], []
    for row, target, weight in zip(rows, targets, known, strict=True):
        group, foreign = int(beliefs.foreign_group[row]), beliefs.verdict[row] == 2
        lone = N_CLASSES + group if group >= 0 else -1
        groups.append(lone if foreign else target.index(max(target)))
        sure.append(float(beliefs.kinds[row, 2]) if foreign else weight)
    assert min(groups) == -1
    assert max(groups) >= N_CLASSES
    wanted = slow.positives(groups, sure)
    contrast = slow.contrast_loss(anchors, candidates, wanted, order, factor, 0.4)
    assert found["contrast"].item() == pytest.approx(contrast, abs=1e-5)
    assert found["balance"].item() == pytest.approx(balance, abs=1e-5)
    assert found["loss"].item() == pytest.approx(loss + 0.2 * balance + 0.8 * contrast, abs=1e-5)


def test_without_interpolation_the_likeliest_classes_are_groups(made):
    values = {}
    for interpolated in (True, False):
        work = work_of(made)  # kinds are certain, so that both are the same but for guesses
        (phase,) = Robust(interpolated=interpolated, label_first=False).phases(work)
        values[interpolated] = phase.step(batch_of(made, epoch=0, step=0))["contrast"].item()
    assert values[True] == pytest.approx(values[False], abs=1e-2)
    (phase,) = Robust(interpolated=False).phases(work_of(made, doubted(made.beliefs)))
    (other,) = Robust(interpolated=True).phases(work_of(made, doubted(made.beliefs)))
    batch = batch_of(made)
    assert abs(phase.step(batch)["contrast"] - other.step(batch)["contrast"]) > 1e-3


def test_certain_images_are_never_refined(made):
    """The network's word, however strong, changes no target of an image that a person decided."""
    n = len(made.beliefs)
    sure = replace(made.beliefs, certain=np.ones(n, bool))
    losses = []
    for teacher_says in (1.0, -30.0):
        work = work_of(made, sure)
        clean = made.beliefs.verdict == 0
        rows = torch.from_numpy(made.rows[clean[made.rows]][:24])
        batch = Batch(torch.from_numpy(made.pixels)[rows], rows, 2, 1)
        with torch.no_grad():
            work.average.module.trunk.classifier.weight.mul_(teacher_says)
        (phase,) = Robust().phases(work)
        losses.append(phase.step(batch)["loss"].item())
    assert losses[0] == losses[1]


def test_foreign_images_give_the_classifier_no_gradient(made):
    """But by the batch norms that they share, which are in evaluation mode here."""
    gradients = []
    foreign = torch.from_numpy(made.beliefs.verdict == 2)
    for shown in (made.pixels, 255 - made.pixels):
        work = work_of(made)
        batch = batch_of(made)
        mine = foreign[batch.rows]
        assert mine.any()
        batch.images[mine] = torch.from_numpy(shown)[batch.rows[mine]]
        work = work._replace(views=work.views._replace(weak=lambda images, *_: images.float() / 99))
        (phase,) = Robust(alpha=1e-9, contrast_weight=0.0).phases(work)  # nothing is mixed
        work.model.bare.eval()
        phase.step(batch)["loss"].backward()
        gradients.append(work.model.bare.trunk.classifier.weight.grad)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 1e-3


def test_one_pass_without_gradient_and_two_with(made, monkeypatch):
    work = work_of(made)
    passed: list[tuple[bool, int]] = []

    def hook(module, inputs, output):
        passed.append((torch.is_grad_enabled(), len(inputs[0])))

    for network in (work.model.bare.trunk.backbone, work.average.module.trunk.backbone):
        network.register_forward_hook(hook)
    (phase,) = Robust().phases(work)
    batch = batch_of(made)
    phase.step(batch)
    assert passed == [(False, 24), (True, 48)]
    passed.clear()
    (phase,) = Robust(contrast_weight=0.0).phases(work)
    phase.step(batch)
    assert passed == [(False, 24), (True, 24)]


def test_the_network_itself_guesses_where_asked_and_its_norms_stay(made):
    work = work_of(made)
    before = states(work.model.bare.trunk)
    for settings, average in ((Robust(teacher="network"), 0.5), (Robust(), 0.0)):
        work = work_of(made, average=average)
        (phase,) = settings.phases(work)
        phase.step(batch_of(made))
        assert all(part.training for part in work.model.bare.modules())
        norms = [part for part in work.model.bare.modules() if hasattr(part, "num_batches_tracked")]
        assert {int(norm.num_batches_tracked) for norm in norms} == {1}
        assert not torch.equal(states(work.model.bare.trunk), before)


# The stream


@given(
    st.integers(1, 60), st.integers(1, 16), st.integers(0, 5), st.sampled_from([0.02, 0.3, 0.9])
)  # fmt: skip
def test_rows_come_as_often_as_their_rates_say_and_once_an_epoch(n, batch_size, seed, least):
    rows = np.arange(n) * 3
    rates = np.random.default_rng(seed).uniform(least, 1, n)
    rates[: n // 3] = 1
    if rates.sum() < 1:
        return
    sampler = thinned(rows, rates, batch_size, seed)
    counts = np.zeros(3 * n)
    for epoch in range(50):
        batches = list(sampler.epoch(epoch))
        assert len(batches) == len(sampler)
        assert {len(batch) for batch in batches} == {sampler.batch_size}
        seen = np.concatenate(batches)
        assert len(set(seen.tolist())) == len(seen)
        counts[sampler.present(epoch) if rates.min() < 1 else seen] += 1
    assert counts[rows[rates == 1]].tolist() == [50] * (rates == 1).sum() or rates.min() == 1
    assert np.all(np.abs(counts[rows] - 50 * rates) < 4)


def test_epochs_of_a_row_are_evenly_spaced():
    sampler = thinned(np.arange(100), np.full(100, 0.2), 10, seed=1)
    there = np.stack([np.isin(np.arange(100), sampler.present(epoch)) for epoch in range(60)])
    for row in there.T:
        gaps = np.diff(np.flatnonzero(row))
        assert gaps.min() >= 3
        assert gaps.max() <= 8


def test_rates_that_come_to_a_whole_number_fill_it_in_spite_of_rounding():
    for rate, n, size in ((0.1, 10, 1), (0.4, 640, 256), (0.3, 10, 3), (0.7, 10, 7)):
        sampler = thinned(np.arange(n), np.full(n, rate), size, seed=0)
        for epoch in range(200):
            assert [len(batch) for batch in sampler.epoch(epoch)] == [size]


def test_rates_of_one_are_the_plain_stream_and_others_need_rows():
    rows = np.arange(40)
    ours, plain = thinned(rows, np.ones(40), 8, 3), shuffled(rows, 8, 3)
    assert all(map(np.array_equal, ours.epoch(2), plain.epoch(2)))
    with pytest.raises(ConfigError, match=r"rates run from 0.5 to 1.5; expected shares"):
        thinned(np.arange(2), np.array([0.5, 1.5]), 8, 0)
    with pytest.raises(DataError, match=r"rates are \(3,\) of rows \(2,\)"):
        thinned(np.arange(2), np.ones(3), 8, 0)
    with pytest.raises(DataError, match="0 images for 1 process"):
        thinned(rows, np.full(40, 0.01), 8, 0)


def test_there_are_as_many_updates_as_in_plain_training(made):
    training = replace(QUICK.training, epochs=20, batch_size=8)
    work = work_of(made, training=training)
    (plain,) = Plain().phases(work)
    wanted = len(plain.sampler) * plain.training.epochs
    for rates in ((1.0, 0.1), (0.3, 0.0), (1.0, 1.0)):
        (phase,) = Robust(mislabeled_rate=rates[0], foreign_rate=rates[1]).phases(work)
        updates = len(phase.sampler) * phase.training.epochs
        assert updates == pytest.approx(wanted, rel=0.05)
        assert (phase.training.epochs == 20) == (rates == (1.0, 1.0))
    often = np.bincount(np.concatenate([*phase.sampler.epoch(0)]), minlength=len(made.truth))
    assert often[made.rows].max() == 1


# What it learns


@pytest.mark.parametrize("evidence", ["both", "audit", "alternate"])
def test_wrong_labels_are_not_learned_and_their_classes_are_found(made, tmp_path, evidence):
    log, lines = logs(tmp_path / "log.jsonl")
    settings = replace(ROBUST, objective=Robust(evidence=evidence, ramp=0.1))
    found = trained(
        made, with_training(settings, epochs=10), test=accuracy_test(made), log=log,
        beliefs=doubted(made.beliefs),
    )  # fmt: skip
    known = made.truth[made.rows] >= 0
    right = found.probabilities.argmax(1) == made.truth[made.rows]
    assert right[known].mean() > 0.95
    assert lines()[-1]["test_accuracy"] > 0.95
    assert found.probabilities.shape == (len(made.rows), N_CLASSES)


def test_suggestions_that_are_wrong_are_overruled_by_the_network(made):
    wrong = made.beliefs.verdict == 1
    kinds = made.beliefs.kinds.copy()
    kinds[wrong] = [0.4, 0.5, 0.1]
    other = (made.truth + 1) % N_CLASSES
    misled = replace(
        made.beliefs, kinds=kinds, suggestion=np.where(wrong, other, made.beliefs.suggestion),
        suggestion_probability=np.full(len(kinds), 0.4, np.float32),
    )  # fmt: skip
    found = trained(made, with_training(ROBUST, epochs=12), beliefs=misled)
    mine = wrong[made.rows]
    assert (found.probabilities.argmax(1) == made.truth[made.rows])[mine].mean() > 0.9


@pytest.mark.parametrize("kinds", [[0], [0, 1], [0, 2], [1], [1, 2]])
def test_any_kind_of_image_may_be_missing(made, kinds):
    rows = made.rows[np.isin(made.beliefs.verdict[made.rows], kinds)]
    for objective in (Robust(), EVERYTHING):
        found = trained(made, replace(ROBUST, objective=objective), rows=rows)
        assert found.probabilities.shape == (len(rows), N_CLASSES)
        assert np.isfinite(found.probabilities).all()


def test_nothing_but_foreign_images_is_an_error_that_says_what_to_do(made):
    rows = made.rows[made.beliefs.verdict[made.rows] == 2]
    with pytest.raises(DataError, match=r"all of \d+ images are called foreign.*--recipe plain"):
        trained(made, ROBUST, rows=rows)


def test_images_without_label_are_guessed(made):
    labels, wrong = made.beliefs.labels.copy(), made.beliefs.verdict == 1
    labels[wrong] = -1
    blind = replace(
        made.beliefs, labels=labels, suggestion=np.full(len(labels), -1),
        suggestion_probability=np.zeros(len(labels), np.float32),
    )  # fmt: skip
    for objective in (Robust(), EVERYTHING):
        settings = with_training(replace(ROBUST, objective=objective), epochs=12)
        found = trained(made, settings, beliefs=blind)
        mine = wrong[made.rows]
        assert (found.probabilities.argmax(1) == made.truth[made.rows])[mine].mean() > 0.9


def test_rows_of_features_are_trained_without_contrast(made, tmp_path):
    log, lines = logs(tmp_path / "log.jsonl")
    settings = with_training(replace(ROBUST, projection="none"), epochs=20)
    found = trained_on_rows(made, settings, log=log)
    known = made.truth[made.rows] >= 0
    assert (found.probabilities.argmax(1) == made.truth[made.rows])[known].mean() > 0.9
    assert all("contrast" not in line for line in lines())
    assert found.projection is None


# Seeds, interruptions, processes


def test_the_seed_decides_everything(made):
    settings = replace(ROBUST, objective=EVERYTHING)
    first, again, other = (trained(made, settings, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("objective", [Robust(), EVERYTHING], ids=["default", "everything"])
def test_a_training_that_was_interrupted_ends_with_the_same_bits(made, tmp_path, objective):
    settings = replace(ROBUST, objective=objective)
    settings = with_training(settings, epochs=4, checkpoint_minutes=1e-9)
    whole = trained(made, settings)
    for stop in (5, 14, 23):

        def progress(done, total, stop=stop):
            if done == stop:
                raise Interrupted

        with pytest.raises(Interrupted):
            trained(made, settings, folder=tmp_path, progress=progress)
    found = trained(made, settings, folder=tmp_path)
    assert torch.equal(weights(found), weights(whole))
    assert np.array_equal(found.probabilities, whole.probabilities)


def doubled(shown: Views) -> Views:
    """Views in float64, in which rounding does not grow over some steps."""
    weak, strong, clean = (lambda *given, view=view: view(*given).double() for view in shown)
    return Views(weak, strong, clean)


def steps_here(objective: Robust) -> dict:
    """All weights after some epochs, in float64 but for the lengths of projections."""
    made = noisy(n=61, n_mislabeled=25, n_foreign=25)
    settings = with_training(
        replace(ROBUST, objective=objective, clean_norms=50), batch_size=12, epochs=3
    )
    found = trained(
        made, settings, runtime=Runtime.start(), network=tiny_network().double(),
        views=doubled(views(settings)), beliefs=doubted(made.beliefs),
    )  # fmt: skip
    return {"state": weights(found), "said": found.probabilities}


@pytest.mark.parametrize("objective", [Robust(), EVERYTHING], ids=["default", "everything"])
def test_two_processes_learn_what_one_does(objective):
    alone = steps_here(objective)
    for found in together(steps_here, objective):
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["said"], alone["said"], atol=1e-5)


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evidence": "none"}, "evidence is 'none'; expected one of both, audit, alternate"),
        ({"teacher": "me"}, "teacher is 'me'; expected one of average, network"),
        ({"alpha": 0.0}, "alpha is 0.0; expected a number above 0"),
        ({"guess_power": 0.0}, "guess_power is 0.0; expected a number above 0"),
        ({"audit_power": -1.0}, "audit_power is -1.0; expected 0 or more"),
        ({"ramp": 1.5}, "ramp is 1.5; expected 0 to 1"),
        ({"foreign_rate": -0.1}, "foreign_rate is -0.1; expected 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Robust(**changes)
