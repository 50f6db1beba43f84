"""SNCF's second stage: what a step computes, what its phases are, where it has nothing to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import reference_paper_training as slow
from labelsieve.data.batches import Batch, Batches, of_rows, resident
from labelsieve.data.draws import batch_generator
from labelsieve.data.mixing import mixing
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import Classifier, small_head
from labelsieve.features.shown import STRONG, WEAK, Views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.optimizers import Average
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf import classify as module
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classifier import NoisyClassifier, Prepared
from labelsieve.methods.sncf.paper_training import (
    Paper,
    n_of_each_kind,
    paper_step,
    warmup_step,
)
from labelsieve.methods.sncf.streams import clean_stream, three_streams
from labelsieve.methods.sncf.work import Work
from made_colors import SIZE, states, tiny_network
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

PAPER = replace(QUICK, objective=Paper())


@pytest.fixture(scope="module")
def made() -> Noisy:
    return noisy()


def work_of(made: Noisy, beliefs: Beliefs | None = None, average: float = 0.0, **changes) -> Work:
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


def batch_of(made: Noisy, epoch=2, step=1, batch_size=24) -> tuple[Batch, np.ndarray]:
    """A batch of the three streams, and how many of each kind are in it."""
    sampler = three_streams(made.beliefs.verdict, made.rows, batch_size, 0)
    batches = Batches(resident(made.pixels), sampler)
    (batch,) = [each for each in batches.epoch(epoch, first=step) if each.step == step]
    return batch, n_of_each_kind(sampler, made.beliefs.verdict)


# The step


@pytest.mark.parametrize(("epoch", "zeta"), [(0, 1.0), (5, 0.3)])
def test_the_step_is_the_algorithm_of_the_paper_in_plain_numbers(made, epoch, zeta):
    settings = Paper(power=3.0, temperature=0.5)
    work, twin = work_of(made), work_of(made).model
    batch, counts = batch_of(made, epoch)
    found = paper_step(settings, work, counts, zeta, n_warmup=7)(batch)

    rows, epoch = batch.rows.tolist(), epoch + 7
    labels, kinds = ([column[row] for row in rows] for column in
                     (made.beliefs.labels.tolist(), made.beliefs.verdict.tolist()))  # fmt: skip
    assert counts.tolist() == [kinds.count(kind) for kind in range(3)] == [8, 8, 8]
    shown = work.views
    weak = [shown.weak(batch.images, batch.rows, epoch, i) for i in WEAK]
    strong = [shown.strong(batch.images, batch.rows, epoch, i) for i in STRONG]
    assert not torch.equal(*weak)
    assert not torch.equal(*strong)
    with torch.no_grad():  # in training mode, one view after the other
        said = [twin(view).logits.tolist() for view in weak]
    guesses = [slow.guess(*pair, settings.power) for pair in zip(*said, strict=True)]
    clean, mislabeled = ([i for i, k in enumerate(kinds) if k == kind] for kind in (0, 1))
    images = [weak[0][i] for i in clean] + [weak[1][i] for i in clean]
    images += [weak[0][i] for i in mislabeled]
    targets = [slow.one_hot(labels[i], N_CLASSES) for i in clean * 2]
    targets += [guesses[i] for i in mislabeled]
    generator = batch_generator(work.seed, epoch, batch.step)
    factor, order = mixing(generator, len(images))
    logits = twin(torch.stack(slow.mixed(images, order.tolist(), factor))).logits.tolist()
    classification = slow.classification_loss(logits, targets, order.tolist(), factor)
    factor, order = mixing(generator, len(rows))
    assert factor >= 0.5
    first = torch.stack(slow.mixed(list(strong[0]), order.tolist(), factor))
    anchors, candidates = (
        twin(view, project=True).projections.tolist() for view in (first, strong[1])
    )
    groups = made.beliefs.foreign_group[rows].tolist()
    assert len({group for group, k in zip(groups, kinds, strict=True) if k == 2}) == 3
    classes = slow.contrast_classes(labels, kinds, guesses, groups, N_CLASSES)
    contrast = slow.contrast_loss(
        anchors, candidates, classes, order.tolist(), factor, settings.temperature
    )
    assert found["classification"].item() == pytest.approx(classification, abs=1e-5)
    assert found["contrast"].item() == pytest.approx(contrast, abs=1e-5)
    assert found["loss"].item() == pytest.approx(classification + zeta * contrast, abs=1e-5)
    torch.testing.assert_close(states(work.model.bare), states(twin.bare))  # norms as well


@pytest.mark.parametrize("copies", [1, 2])
def test_the_warm_up_is_mixup_of_clean_images_as_often_as_it_says(made, copies):
    work, twin = work_of(made), work_of(made).model
    sampler = clean_stream(made.beliefs.verdict, made.rows, 20, 0)
    batch = next(Batches(resident(made.pixels), sampler).epoch(4))
    found = warmup_step(Paper(warmup_copies=copies), work)(batch)
    images = list(work.views.weak(batch.images, batch.rows, 4, WEAK[0])) * copies
    targets = [slow.one_hot(made.truth[row], N_CLASSES) for row in batch.rows] * copies
    factor, order = mixing(batch_generator(work.seed, 4, 0), len(images))
    logits = twin(torch.stack(slow.mixed(images, order.tolist(), factor))).logits.tolist()
    expected = slow.classification_loss(logits, targets, order.tolist(), factor)
    assert found["loss"].item() == pytest.approx(expected, abs=1e-5)
    assert found.keys() == {"loss"}


def changed(batch: Batch, which: np.ndarray) -> Batch:
    images = batch.images.clone()
    images[torch.from_numpy(which)] = 255 - images[torch.from_numpy(which)]
    return batch._replace(images=images)


def test_foreign_pixels_do_not_touch_the_classification_but_the_contrast(made):
    settings = Paper(guess="eval")  # else they move the batch norms of the guess
    batch, counts = batch_of(made)
    kinds = made.beliefs.verdict[batch.rows]

    def values(batch: Batch) -> dict[str, float]:
        step = paper_step(settings, work_of(made), counts, 1.0, 0)
        return {name: value.item() for name, value in step(batch).items()}

    plain, foreign, wrong = (values(changed(batch, kinds == kind)) for kind in (9, 2, 1))
    assert foreign["classification"] == plain["classification"]
    assert abs(foreign["contrast"] - plain["contrast"]) > 1e-4
    assert abs(wrong["classification"] - plain["classification"]) > 1e-4


def test_foreign_images_give_the_classifier_no_gradient(made):
    batch, counts = batch_of(made)
    gradients = []
    for zeta in (0.0, 5.0):
        work = work_of(made)
        paper_step(Paper(), work, counts, zeta, 0)(batch)["loss"].backward()
        classifier = work.model.bare.trunk.classifier
        gradients.append(torch.cat([classifier.weight.grad, classifier.bias.grad[:, None]], 1))
        assert (work.model.bare.projection[0].weight.grad is None) == (zeta == 0)
    torch.testing.assert_close(*gradients)


def n_batches_seen(model: Prepared) -> set[int]:
    norms = [part for part in model.bare.trunk.modules() if isinstance(part, _BatchNorm)]
    return {int(norm.num_batches_tracked) for norm in norms}


@pytest.mark.parametrize(("guess", "passes"), [("train", 5), ("eval", 3), ("average", 3)])
def test_only_guesses_in_training_mode_move_the_running_statistics(made, guess, passes):
    batch, counts = batch_of(made)
    work = work_of(made, average=0.9)
    before = states(work.average)
    step = paper_step(Paper(guess=guess), work, counts, 1.0, 0)
    losses = [step(batch)["classification"].item()]
    assert n_batches_seen(work.model) == {passes}
    assert all(part.training for part in work.model.bare.modules())
    assert torch.equal(states(work.average), before)
    with torch.no_grad():
        work.model.bare.trunk.classifier.weight.neg_()
    work.model.trunk.zero_grad()
    guessed_by = states(work.average)
    losses.append(paper_step(Paper(guess=guess), work, counts, 1.0, 0)(batch)["loss"].item())
    assert torch.equal(states(work.average), guessed_by)
    assert losses[0] != losses[1]


def test_no_guess_is_made_where_no_image_needs_one(made):
    kinds = made.beliefs.kinds.copy()
    kinds[made.beliefs.verdict == 1] = [0, 0, 1]
    beliefs = replace(made.beliefs, kinds=kinds)
    sampler = three_streams(beliefs.verdict, made.rows, 24, 0)
    counts = n_of_each_kind(sampler, beliefs.verdict)
    assert counts.tolist() == [12, 0, 12]
    work = work_of(made, beliefs)
    batch = next(Batches(resident(made.pixels), sampler).epoch(0))
    found = paper_step(Paper(), work, counts, 1.0, 0)(batch)
    assert n_batches_seen(work.model) == {3}
    assert all(value.isfinite() for value in found.values())


# The phases


def test_the_schedule_is_that_of_all_epochs_over_both_phases(made, tmp_path):
    rate = LearningRate(peak=0.1, shape="steps", cuts=(0.5, 0.8), by_epoch=True)
    settings = with_training(PAPER, epochs=10, batch_size=60, learning_rate=rate)
    log, lines = logs(tmp_path / "log.jsonl")
    trained(made, settings, log=log)
    told = lines()
    assert [line["phase"] for line in told] == ["warm-up"] * 3 + ["train"] * 7
    assert [line["epoch"] for line in told] == [*range(3), *range(7)]
    expected = [0.1] * 5 + [0.01] * 3 + [0.001] * 2
    assert [line["learning_rate"] for line in told] == pytest.approx(expected)
    assert all("contrast" not in line for line in told[:3])
    assert all(line["contrast"] > 0 for line in told[3:])


def test_momentum_goes_on_and_the_head_rests_in_the_warm_up(made, monkeypatch):
    seen, really = [], module.train
    with drawn_from(1):  # as a training with seed 0 draws it
        before = states(small_head(16))

    def train(step, batches, optimizers, training, *, state, **more):
        momenta = [len(optimizer.state) for optimizer in optimizers]
        head_now = states(state["projection"])
        seen.append((tuple(map(id, optimizers)), id(state["trunk"]), momenta, head_now))
        return really(step, batches, optimizers, training, state=state, **more)

    monkeypatch.setattr(module, "train", train)
    found = trained(made, PAPER)
    (warmup, main) = seen
    assert warmup[:2] == main[:2]
    n_trained = len(list(found.network.parameters())) + 2
    assert (warmup[2], main[2]) == ([0], [n_trained])
    assert torch.equal(warmup[3], before)
    assert torch.equal(main[3], before)  # not even decayed, nor its batch norms moved
    assert not torch.equal(states(found.projection), before)


@pytest.mark.parametrize(
    ("warmup", "epochs", "expected"),
    [(0.3, 100, [30, 70]), (0.0, 4, [4]), (0.3, 1, [1]), (0.9, 4, [3, 1]), (0.05, 4, [4])],
)
def test_the_warm_up_is_its_share_of_the_epochs_but_never_all(made, warmup, epochs, expected):
    training = replace(QUICK.training, epochs=epochs)
    phases = Paper(warmup=warmup).phases(work_of(made, training=training))
    assert [phase.training.epochs for phase in phases] == expected
    assert [phase.name for phase in phases] == ["warm-up", "train"][-len(phases) :]


def test_the_weight_of_the_contrast_may_be_the_share_of_foreign_images(made):
    batch, _ = batch_of(made)
    share = 36 / (120 + 36 + 36)
    kinds = made.beliefs.kinds.copy()
    kinds[made.beliefs.verdict == 2] = [0, 1, 0]
    for beliefs, expected in ((made.beliefs, share), (replace(made.beliefs, kinds=kinds), 0.5)):
        phases = Paper(contrast_by_share=True).phases(work_of(made, beliefs))
        batch = next(Batches(resident(made.pixels), phases[-1].sampler).epoch(0))
        found = phases[-1].step(batch)
        zeta = (found["loss"] - found["classification"]) / found["contrast"]
        assert zeta.item() == pytest.approx(expected, abs=1e-5)


def test_foreign_images_are_left_out_where_nothing_is_contrasted(made):
    plain = views(QUICK)
    cases = [(Paper(contrast_weight=0.0), plain), (Paper(), plain._replace(strong=None))]
    for settings, shown in cases:
        main = settings.phases(work_of(made, views=shown))[-1]
        rows = np.concatenate(list(main.sampler.epoch(0)))
        assert set(made.beliefs.verdict[rows]) == {0, 1}


# What it learns


def test_wrong_labels_are_not_learned_and_their_classes_are_found(made, tmp_path):
    log, lines = logs(tmp_path / "log.jsonl")
    settings = with_training(PAPER, epochs=6, batch_size=48)
    found = trained(made, settings, test=accuracy_test(made), log=log)
    known = made.truth[made.rows] >= 0
    right = found.probabilities.argmax(1) == made.truth[made.rows]
    assert right[known].mean() > 0.97
    assert lines()[-1]["test_accuracy"] > 0.97
    assert found.probabilities.shape == (len(made.rows), N_CLASSES)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)


def test_images_of_a_group_come_together_and_lone_foreign_images_do_not(made):
    found = trained(made, with_training(PAPER, epochs=12, batch_size=48))
    shown = views(QUICK).clean(torch.from_numpy(made.pixels))
    with torch.no_grad():
        z = found.projection(found.network(shown))
    similar = (z @ z.T).numpy()
    foreign = (made.beliefs.verdict == 2) & np.isin(np.arange(len(z)), made.rows)
    group = made.beliefs.foreign_group

    def mean(mask):
        block = similar[np.ix_(mask, mask)]
        return (block.sum() - len(block)) / (len(block) * (len(block) - 1))

    for u in (0, 1):
        assert mean(foreign & (group == u)) > mean(foreign & (group < 0)) + 0.2


# Where there is little or nothing


def test_clean_images_alone_are_one_stream(made):
    rows = made.rows[made.beliefs.verdict[made.rows] == 0]
    found = trained(made, PAPER, rows=rows)
    assert (found.probabilities.argmax(1) == made.truth[rows]).mean() > 0.95


@pytest.mark.parametrize("kind", [1, 2])
def test_one_kind_of_noise_alone_is_two_streams(made, kind):
    verdict = made.beliefs.verdict[made.rows]
    rows = made.rows[(verdict == 0) | (verdict == kind)]
    found = trained(made, PAPER, rows=rows)
    assert found.probabilities.shape == (len(rows), N_CLASSES)
    assert np.isfinite(found.probabilities).all()


def test_fewer_clean_images_than_their_share_of_a_batch_train_too(made):
    verdict = made.beliefs.verdict
    clean = made.rows[verdict[made.rows] == 0][:5]
    rows = np.sort(np.concatenate([clean, made.rows[verdict[made.rows] > 0]]))
    log_free = trained(made, PAPER, rows=rows)
    assert np.isfinite(log_free.probabilities).all()


def test_no_clean_image_is_an_error_that_says_what_to_do(made):
    rows = made.rows[made.beliefs.verdict[made.rows] > 0]
    with pytest.raises(DataError, match=r"none of \d+ images is called clean.*--recipe plain"):
        trained(made, PAPER, rows=rows)


def test_images_without_label_are_guessed(made):
    labels, kinds = made.beliefs.labels.copy(), made.beliefs.kinds.copy()
    wrong = made.beliefs.verdict == 1
    labels[wrong] = -1
    beliefs = replace(made.beliefs, labels=labels, kinds=kinds)
    found = trained(made, with_training(PAPER, epochs=6, batch_size=48), beliefs=beliefs)
    mine = wrong[made.rows]
    assert (found.probabilities.argmax(1) == made.truth[made.rows])[mine].mean() > 0.95


def test_rows_of_features_are_trained_without_contrast(made, tmp_path):
    log, lines = logs(tmp_path / "log.jsonl")
    asked = []

    class Watched:
        broken: dict[int, str] = {}  # noqa: RUF012

        def __init__(self):
            self.inner = of_rows(made.features)

        def __len__(self):
            return len(self.inner)

        def fetch(self, wanted, device):
            for rows, values in self.inner.fetch(wanted, device):
                asked.extend(rows.tolist())
                yield rows, values

    settings = with_training(replace(PAPER, projection="none"), epochs=20)
    found = trained_on_rows(made, settings, source=Watched(), log=log)
    known = made.truth[made.rows] >= 0
    assert (found.probabilities.argmax(1) == made.truth[made.rows])[known].mean() > 0.9
    assert all("contrast" not in line for line in lines())
    assert set(asked) <= set(made.rows.tolist())
    assert found.projection is None


# Processes


def doubled(shown: Views) -> Views:
    """Views in float64, in which rounding does not grow over some steps."""
    weak, strong, clean = (lambda *given, view=view: view(*given).double() for view in shown)
    return Views(weak, strong, clean)


def steps_here(guess: str) -> dict:
    """All weights after both phases, in float64 but for the lengths of projections."""
    made = noisy(n=61, n_mislabeled=25, n_foreign=25)
    objective = Paper(warmup=0.5, guess=guess, warmup_copies=2)
    settings = replace(PAPER, objective=objective, average=0.5, clean_norms=50)
    settings = with_training(settings, batch_size=12, epochs=2)
    found = trained(
        made, settings, runtime=Runtime.start(), network=tiny_network().double(),
        views=doubled(views(settings)),
    )  # fmt: skip
    return {"state": weights(found), "said": found.probabilities}


@pytest.mark.parametrize("guess", ["train", "average"])
def test_two_processes_learn_what_one_does(guess):
    alone = steps_here(guess)
    for found in together(steps_here, guess):
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["said"], alone["said"], atol=1e-5)


def gradient_here() -> dict:
    """Loss and gradients of one step, in float64 but for views and projections."""
    made = noisy(n=61, n_mislabeled=25, n_foreign=25)
    runtime = Runtime.start()
    work = work_of(made)
    with drawn_from(3):
        parts = tiny_network().double(), Classifier(16, N_CLASSES).double(), small_head(16).double()
    model = Prepared(NoisyClassifier(*parts), runtime)
    model.train()
    work = work._replace(model=model, views=doubled(work.views), runtime=runtime)
    sampler = three_streams(made.beliefs.verdict, made.rows, 12, 0, n_processes=runtime.n_processes)
    batches = Batches(
        resident(made.pixels), sampler, rank=runtime.rank, n_processes=runtime.n_processes
    )
    counts = n_of_each_kind(sampler, made.beliefs.verdict)
    found = paper_step(Paper(), work, counts, 1.0, 0)(next(batches.epoch(1)))
    found["loss"].backward()
    gradients = [weight.grad.flatten() for weight in model.bare.parameters()]
    values = {name: runtime.mean(value) for name, value in found.items()}
    return {"gradient": torch.cat(gradients), **values}


def test_the_gradient_of_a_step_is_the_same_on_two_processes():
    alone = gradient_here()
    assert alone["gradient"].dtype == torch.float64
    for found in together(gradient_here):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": 1.0}, "warmup is 1.0; expected a share of the epochs"),
        ({"warmup_copies": 3}, "warmup_copies is 3; expected 1 or 2"),
        ({"power": 0.5}, "power is 0.5; expected 1 or more"),
        ({"guess": "none"}, "guess is 'none'; expected one of train, eval, average"),
        ({"alpha": 0.0}, "alpha is 0.0; expected a number above 0"),
        ({"temperature": -1.0}, "temperature is -1.0; expected a number above 0"),
        ({"most_repeats": 0.0}, "most_repeats is 0.0; expected a number above 0"),
        ({"contrast_weight": -1.0}, "contrast_weight is -1.0; expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Paper(**changes)


def test_an_average_that_is_not_there_cannot_guess(made):
    with pytest.raises(ConfigError, match="guess is 'average' and no weights are averaged"):
        trained(made, replace(PAPER, objective=Paper(guess="average")))


def test_the_defaults_are_the_published_constants():
    paper, training = Paper(), module.Classify().training
    assert (paper.warmup, paper.power, paper.temperature) == (0.3, 2.0, 0.2)
    assert (paper.alpha, paper.contrast_weight, paper.guess) == (1.0, 1.0, "train")
    assert (training.epochs, training.batch_size) == (100, 256)
    rates = [training.learning_rate.at(epoch / 100) for epoch in (0, 49, 50, 79, 80, 99)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    sgd = training.optimizer
    assert (sgd.name, sgd.momentum, sgd.nesterov, sgd.weight_decay) == ("sgd", 0.9, False, 5e-4)
    assert sgd.decay_all
    assert module.Classify().strong.smallest_crop == 0.08
    assert SIZE < module.Classify().weak.size == 32
