"""The training of a classifier: what it predicts, leaves alone, and does when it is interrupted."""

from __future__ import annotations

import math
import multiprocessing
import random
import signal
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.modules.batchnorm import _BatchNorm

import killed_classifier
from labelsieve.data.augment import Contrastive, Weak, clean_view
from labelsieve.data.batches import Batch, Batches, of_rows, resident
from labelsieve.data.samplers import in_order
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import Classifier, small_head
from labelsieve.features.inference import middle_of, take_statistics
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.shown import STRONG, WEAK, Views, image_views, row_views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.optimizers import Average
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.methods.sncf import classify as module
from labelsieve.methods.sncf import predictor as predictor_module
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classifier import NoisyClassifier, Prepared
from labelsieve.methods.sncf.classify import Classify
from labelsieve.methods.sncf.paper_training import Paper
from labelsieve.methods.sncf.plain_training import Plain
from labelsieve.methods.sncf.work import Work, part_of
from made_colors import NORMALIZATION, SIZE, states, tiny_network
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
from test_device_waits import META, OnMeta, Waits

OBJECTIVES = {"ce": Plain(), "mixup": Plain(alpha=1.0), "elr": Plain("elr"), "paper": Paper()}


@pytest.fixture(scope="module")
def made() -> Noisy:
    return noisy()


def said_of(found, made: Noisy, rows: np.ndarray) -> np.ndarray:
    """Probabilities by the parts that were given back, in one pass."""
    shown = clean_view(torch.from_numpy(made.pixels[rows]), SIZE, NORMALIZATION)
    with torch.no_grad():
        return found.classifier(found.network(shown)).softmax(1).numpy()


# What it predicts


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("clean_norms", [0, 90])
def test_probabilities_are_those_of_the_parts_given_back(made, average, clean_norms):
    found = trained(made, replace(QUICK, average=average, clean_norms=clean_norms))
    np.testing.assert_allclose(found.probabilities, said_of(found, made, made.rows), atol=1e-5)
    assert found.probabilities.dtype == np.float32
    assert not any(part.training for part in found.network.modules())
    assert all(weight.requires_grad for weight in found.network.parameters())


def test_the_average_predicts_where_there_is_one(made, monkeypatch):
    kept = []

    class Kept(Average):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            kept.append(self)

    monkeypatch.setattr(module, "Average", Kept)
    found = trained(made, replace(QUICK, average=0.9))
    (average,) = kept
    expected = states(average.module.trunk.backbone, average.module.trunk.classifier)
    assert torch.equal(states(found.network, found.classifier), expected)
    plain = trained(made, QUICK)
    assert not torch.equal(states(plain.network), states(found.network))


def test_statistics_are_those_of_images_as_they_are_that_are_not_foreign(made):
    found = trained(made, replace(QUICK, clean_norms=9999))
    known = made.rows[made.beliefs.verdict[made.rows] != 2]
    again = NoisyClassifier(found.network, found.classifier).trunk
    take_statistics(
        again, resident(made.pixels), known, 9999, middle_of(SIZE, NORMALIZATION),
        runtime=Runtime.start(),
    )  # fmt: skip
    assert torch.equal(states(again.backbone), states(found.network))
    running = trained(made, QUICK)
    assert not torch.equal(states(running.network), states(found.network))
    both = (list(each.network.parameters()) for each in (running, found))
    assert all(map(torch.equal, *both))  # the training was the same


@pytest.mark.parametrize("name", OBJECTIVES)
def test_looking_changes_nothing(made, name):
    """Tests, however often, and statistics taken for them leave the training's bits."""
    found = []
    short = with_training(replace(QUICK, objective=OBJECTIVES[name], average=0.8), batch_size=60)
    test = accuracy_test(made)
    for asked, every, clean_norms in ((None, 1, 0), (test, 1, 0), (test, 2, 60), (test, 1, 60)):
        settings = replace(short, test_every=every, clean_norms=clean_norms)
        result = trained(made, settings, test=asked)
        found.append(torch.cat([weight.flatten() for weight in result.network.parameters()]))
    assert all(torch.equal(found[0], each) for each in found[1:])


@pytest.mark.parametrize(("every", "at"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (0, [4])])
def test_the_log_has_the_test_so_often_and_at_the_end(made, tmp_path, every, at):
    log, lines = logs(tmp_path / "log.jsonl")
    settings = with_training(replace(QUICK, test_every=every), epochs=5)
    found = trained(made, settings, test=accuracy_test(made), log=log)
    told = lines()
    assert [line["epoch"] for line in told if "test_accuracy" in line] == at
    right = said_of(found, made, made.test_rows).argmax(1) == made.truth[made.test_rows]
    assert told[-1]["test_accuracy"] == pytest.approx(right.mean())


def test_epochs_of_both_phases_count_for_the_test(made, tmp_path):
    log, lines = logs(tmp_path / "log.jsonl")
    settings = with_training(
        replace(QUICK, objective=Paper(warmup=0.4), test_every=3), epochs=5, batch_size=60
    )
    trained(made, settings, test=accuracy_test(made), log=log)
    tested = [(line["phase"], line["epoch"]) for line in lines() if "test_accuracy" in line]
    assert tested == [("train", 0), ("train", 2)]


def test_statistics_are_taken_once_for_all_that_is_asked_after_an_epoch(made, monkeypatch):
    taken, really = [], take_statistics
    monkeypatch.setattr(
        predictor_module, "take_statistics", lambda *a, **k: taken.append(1) or really(*a, **k)
    )

    def test(predict):
        for rows in (made.rows, made.test_rows):
            predict(resident(made.pixels), rows)
        return {}

    trained(made, replace(QUICK, clean_norms=60), test=test)
    assert len(taken) == 3 + 1  # epochs, and the end
    taken.clear()
    trained_on_rows(made, replace(QUICK, clean_norms=60), test=lambda predict: {})
    assert taken == []  # there are no batch norms


def test_bfloat16_learns_as_well_and_gives_float32(made):
    settings = with_training(replace(QUICK, objective=Paper()), epochs=5, precision="bfloat16")
    found = trained(made, settings)
    known = made.truth[made.rows] >= 0
    assert (found.probabilities.argmax(1) == made.truth[made.rows])[known].mean() > 0.95
    runtime = Runtime.start(precision="bfloat16")
    with drawn_from(0):
        parts = NoisyClassifier(tiny_network(), Classifier(16, 3), small_head(16))
    answers = Prepared(parts, runtime)(torch.randn(9, 3, SIZE, SIZE), project=True)
    for value in answers:
        assert value.dtype == torch.float32
        assert not torch.equal(value, value.bfloat16().float())


# What it leaves alone


def test_what_was_given_stays_as_it_is(made):
    network = tiny_network()
    network.conv1.weight.requires_grad_(False)
    before = states(network)
    columns = [made.beliefs.labels.copy(), made.beliefs.kinds.copy()]
    settings = replace(QUICK, objective=Paper(), average=0.5)
    found = trained(made, settings, network=network)
    assert torch.equal(states(network), before)
    assert network.training
    assert not torch.equal(states(found.network), states(network))
    assert torch.equal(found.network.conv1.weight, network.conv1.weight)  # frozen
    assert not found.network.conv1.weight.requires_grad
    assert found.network.bn1.weight.requires_grad
    assert np.array_equal(columns[0], made.beliefs.labels)
    assert np.array_equal(columns[1], made.beliefs.kinds)


class Watched:
    """A source that notes which rows are asked for."""

    def __init__(self, inner):
        self.inner, self.broken, self.asked = inner, {}, set()

    def __len__(self):
        return len(self.inner)

    def fetch(self, wanted, device):
        for rows, images in self.inner.fetch(wanted, device):
            self.asked.update(rows.tolist())
            yield rows, images


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_other_image_is_ever_asked_for(made, name):
    settings = replace(QUICK, objective=OBJECTIVES[name], clean_norms=9999, average=0.5)
    for train, source in (
        (trained, Watched(resident(made.pixels))),
        (trained_on_rows, Watched(of_rows(made.features))),  # NaN where images are broken
    ):
        found = train(made, settings, source=source)
        assert source.asked == set(made.rows.tolist())
        assert np.isfinite(found.probabilities).all()


def test_heads_are_drawn_from_the_seed_in_the_precision_of_the_network(made):
    rest = with_training(QUICK, epochs=1, learning_rate=LearningRate(1e-12, shape="constant"))
    with drawn_from(8):
        classifier = Classifier(16, N_CLASSES)
    with drawn_from(9):
        head = small_head(16)
    found, other = (trained(made, rest, seed=seed) for seed in (8, 1))
    torch.testing.assert_close(found.classifier.weight, classifier.weight)
    assert torch.equal(found.projection[0].weight, head[0].weight)
    assert not torch.allclose(found.classifier.weight, other.classifier.weight)
    shown = Views(*(lambda *given, view=view: view(*given).double() for view in views(rest)))
    double = trained(made, rest, network=tiny_network().double(), views=shown)
    assert double.classifier.weight.dtype == double.projection[0].weight.dtype == torch.float64


def test_the_parts_are_saved_and_loaded(made, tmp_path):
    found = trained_on_rows(made)
    parts = torch.nn.ModuleDict({"backbone": found.network, "classifier": found.classifier})
    save_network(tmp_path, parts, {"kind": "test"})
    again, _ = load_network(tmp_path)
    rows = torch.from_numpy(made.features[made.rows])
    with torch.no_grad():
        said = again["classifier"](again["backbone"](rows)).softmax(1)
    np.testing.assert_allclose(said.numpy(), found.probabilities, atol=1e-6)


# Repeated and interrupted


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(made):
    settings = with_training(replace(QUICK, objective=Paper()), batch_size=60)
    first, again, other = (trained(made, settings, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(weights(first), weights(again))
    assert np.array_equal(first.probabilities, again.probabilities)
    assert not torch.equal(weights(first), weights(other))


class Stopped(Exception):
    pass


def stop_at(n: int):
    def progress(done: int, total: int) -> None:
        if done == n:
            raise Stopped

    return progress


@pytest.mark.parametrize("name", ["elr", "paper"])
def test_a_training_goes_on_after_an_interruption_as_if_there_had_been_none(made, tmp_path, name):
    settings = with_training(
        replace(QUICK, objective=OBJECTIVES[name], average=0.8, clean_norms=60),
        checkpoint_minutes=1e-9, epochs=3, batch_size=90,
    )  # fmt: skip
    given = {"test": accuracy_test(made)}
    log, lines = logs(tmp_path / "whole.jsonl")
    told: list[tuple[int, int]] = []
    whole = trained(made, settings, log=log, progress=lambda *done: told.append(done), **given)
    n = told[-1][1]
    assert told == [(i, n) for i in range(1, n + 1)]  # of both phases together
    for at in range(1, n + 1):
        folder = tmp_path / str(at)
        again, lines_again = logs(tmp_path / f"{at}.jsonl")
        with pytest.raises(Stopped):
            trained(made, settings, folder=folder, log=again, progress=stop_at(at), **given)
        resumed = trained(made, settings, folder=folder, log=again, **given)
        assert torch.equal(weights(whole), weights(resumed))
        assert np.array_equal(whole.probabilities, resumed.probabilities)
        assert lines() == lines_again()
    finished = trained(made, settings, folder=folder, progress=stop_at(n), **given)  # no update
    assert torch.equal(weights(whole), weights(finished))
    assert np.array_equal(whole.probabilities, finished.probabilities)


def child(folder, name):
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["killed_classifier", "torch._dynamo"])
    process = server.Process(target=killed_classifier.run, args=(folder, name))
    process.start()
    return process


def killed_until_done(folder, name, seconds, draws) -> int:
    """Kill a training at random moments until it gets to its end; how often it was killed."""
    folder.mkdir()
    for n_kills in range(100):
        process = child(folder, name)
        process.join(draws.uniform(0.1, 0.6) * seconds * (1 + n_kills / 10))
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == 0:
            return n_kills
        assert process.exitcode == -signal.SIGKILL
    raise AssertionError("it never ended")


@pytest.mark.parametrize(
    "name", ["paper", *(pytest.param(name, marks=pytest.mark.slow) for name in ("elr", "mixup"))]
)
def test_a_training_killed_again_and_again_ends_with_the_same_bits(tmp_path, name):
    expected = tmp_path / "expected"
    expected.mkdir()
    child(expected, name).join()
    timed = tmp_path / "timed"
    timed.mkdir()
    begun = time.monotonic()
    child(timed, name).join()
    seconds, draws = time.monotonic() - begun, random.Random(name)
    for attempt in range(6):
        folder = tmp_path / str(attempt)
        n_kills = killed_until_done(folder, name, seconds / 1.5**attempt, draws)
        ours, theirs = (torch.load(path / "result.pt") for path in (folder, expected))
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), key
        ours, theirs = (logs(path / "log.jsonl")[1]() for path in (folder, expected))
        assert ours == theirs
        if n_kills >= 2:
            return
    raise AssertionError("it was always too fast to be killed")


# Schedules of phases

rates = st.one_of(
    st.builds(LearningRate, shape=st.just("constant")),
    st.builds(LearningRate, shape=st.just("cosine"), warmup=st.floats(0, 0.5)),
    st.builds(LearningRate, shape=st.just("one-cycle"), warmup=st.floats(0, 0.5)),
    st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True).map(
        lambda cuts: LearningRate(shape="steps", cuts=tuple(cut / 100 for cut in sorted(cuts)))
    ),
)


@given(rate=rates, epochs=st.integers(2, 300), share=st.floats(0, 1), n=st.integers(1, 9))
def test_a_phase_has_the_rates_of_its_epochs_within_the_whole(rate, epochs, share, n):
    before = round(share * (epochs - 1))
    whole = Training(epochs=epochs, learning_rate=rate)
    part = part_of(whole, before, epochs - before)
    assert part.epochs == epochs - before
    for epoch in range(part.epochs):
        for i in range(n):
            found = part.learning_rate.at((epoch + i / n) / part.epochs)
            expected = rate.at(round(before + epoch + i / n, 6) / epochs)
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_whole_epochs_are_cut_where_the_whole_is():
    for epochs in range(2, 120):
        rate = LearningRate(peak=1.0, shape="steps", cuts=(0.5, 0.8), by_epoch=True)
        whole = Training(epochs=epochs, learning_rate=rate)
        for before in (round(0.3 * epochs), epochs // 3):
            part = part_of(whole, before, epochs - before)
            found = [part.learning_rate.at(e / part.epochs) for e in range(part.epochs)]
            assert found == [rate.at((before + e) / epochs) for e in range(part.epochs)]


# Views


def test_the_four_views_of_an_image_are_four_draws(made):
    shown = views(QUICK, seed=3)
    images, rows = torch.from_numpy(made.pixels[:20]), torch.arange(20)
    drawn = [shown.weak(images, rows, 1, i) for i in WEAK]
    drawn += [shown.strong(images, rows, 1, i) for i in STRONG]
    for i, one in enumerate(drawn):
        assert one.shape == (20, 3, SIZE, SIZE)
        assert all(not torch.equal(one, other) for other in drawn[:i])
    assert len({*WEAK, *STRONG}) == 4
    assert torch.equal(drawn[0], shown.weak(images, rows, 1, WEAK[0]))
    assert not torch.equal(drawn[0], shown.weak(images, rows, 2, WEAK[0]))


def test_clean_views_are_the_middle_at_the_scale_of_weak_ones():
    images = torch.arange(3 * 10 * 12, dtype=torch.uint8).reshape(1, 3, 10, 12)
    shown = image_views(Weak(size=8), Contrastive(size=8), NORMALIZATION, 0)
    found = shown.clean(images)
    torch.testing.assert_close(found, clean_view(images[:, :, 1:9, 2:10], 8, NORMALIZATION))
    exact = torch.arange(192, dtype=torch.uint8).reshape(1, 3, 8, 8)
    torch.testing.assert_close(shown.clean(exact), clean_view(exact, 8, NORMALIZATION))
    assert image_views(Weak(size=8), None, NORMALIZATION, 0).strong is None


def test_rows_are_shown_as_they_are_or_with_uniform_noise_of_the_standard_deviation_given():
    values, rows = torch.randn(400, 50), torch.arange(400)
    alone = row_views(0)
    assert alone.strong is None
    assert torch.equal(alone.weak(values, rows, 0, WEAK[0]), values)
    shown = row_views(3, noise=0.5)
    noise = shown.weak(values, rows, 0, WEAK[0]) - values
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.abs().max() <= 0.5 * math.sqrt(3) + 1e-5
    assert torch.equal(shown.clean(values), values)
    for other in (shown.weak(values, rows, 0, WEAK[1]), shown.weak(values, rows, 1, WEAK[0])):
        assert not torch.equal(other - values, noise)


def test_rows_of_features_are_a_source(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", values)
    for given_values in (values, np.load(tmp_path / "rows.npy", mmap_mode="r")):
        source = of_rows(given_values)
        assert len(source) == 7
        found = list(Batches(source, in_order(np.array([6, 2, 0]), 2)).epoch(0))
        assert [batch.rows.tolist() for batch in found] == [[6, 2], [0]]
        assert np.array_equal(torch.cat([batch.images for batch in found]), values[[6, 2, 0]])
        assert found[0].images.dtype == torch.float32
    for wrong in (values.astype(np.float64), values[0], values[None]):
        with pytest.raises(ConfigError, match=r"expected \(N, D\) float32"):
            of_rows(wrong)


# Waiting for the device


@pytest.mark.parametrize("name", ["ce", "mixup", "elr", "paper"])
def test_a_step_asks_the_device_for_nothing(made, name, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none
    runtime = OnMeta()
    model = Prepared(
        NoisyClassifier(tiny_network(), Classifier(16, N_CLASSES), small_head(16)), runtime
    )
    model.train()
    training = replace(QUICK.training, epochs=4)
    work = Work(
        model, Average(model.bare, 0.9), views(QUICK), made.beliefs, made.rows, N_CLASSES,
        training, runtime, 0, resident(made.pixels),
    )  # fmt: skip
    for phase in OBJECTIVES[name].phases(work):
        n = phase.sampler.batch_size
        images = torch.zeros(n, 3, SIZE, SIZE, dtype=torch.uint8, device=META)
        batch = Batch(images, torch.arange(n, device=META), epoch=0, step=0)
        phase.step(batch)  # constants are copied once
        with Waits() as waits:
            loss = phase.step(batch)["loss"]
            loss.backward()
        assert waits.found == []


# Errors and settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection": "large"}, "projection is 'large'; expected one of none, small, sncf"),
        ({"average": 1.0}, "average is 1.0; expected 0 <= average < 1"),
        (
            {"objective": Paper(guess="average")},
            "guess is 'average' and no weights are averaged. Set average, such as 0.999, or guess=",
        ),
        ({"clean_norms": -1}, "clean_norms is -1; expected 0 or more"),
        ({"test_every": -1}, "test_every is -1; expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Classify(**changes)


def test_what_does_not_fit_is_an_error(made):
    labels = made.beliefs.labels
    cases = [
        ({"n_classes": 1}, ConfigError, "n_classes is 1; at least 2 are needed"),
        ({"n_classes": 2}, DataError, "labels run up to 2; expected less than n_classes=2"),
        ({"rows": made.rows[:0]}, DataError, "there is no image to learn from"),
        ({"beliefs": Beliefs.trusting(labels[:9])}, DataError, "beliefs of 9 images for a source"),
        ({"network": torch.nn.Flatten()}, ConfigError, "Flatten has no whole number n_features"),
    ]
    for more, kind, message in cases:
        with pytest.raises(kind, match=message):
            trained(made, QUICK, **more)


def test_heads_that_do_not_fit_are_an_error():
    with pytest.raises(ConfigError, match="the classifier takes 17 features and ResNet gives 16"):
        NoisyClassifier(tiny_network(), Classifier(17, 3))
    with pytest.raises(ConfigError, match="the projection head takes 9 features and ResNet gives"):
        NoisyClassifier(tiny_network(), Classifier(16, 3), small_head(9))


def test_projections_without_a_head_are_an_error():
    model = NoisyClassifier(Rows(4), Classifier(4, 2))
    with pytest.raises(ConfigError, match="without a projection head are asked for"):
        model(torch.zeros(1, 4), project=True)
    logits, projections = model(torch.zeros(1, 4))
    assert projections is None
    assert logits.shape == (1, 2)


def test_norms_of_both_heads_follow_their_own_passes():
    """The head's statistics move where it is asked, and nowhere else."""
    with drawn_from(0):
        model = NoisyClassifier(tiny_network(), Classifier(16, 3), small_head(16)).train()
    images = torch.randn(6, 3, SIZE, SIZE)
    model(images)
    model(images, project=True)
    seen = {
        name: int(part.num_batches_tracked)
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm)
    }
    assert {n for name, n in seen.items() if name.startswith("trunk")} == {2}
    assert {n for name, n in seen.items() if name.startswith("projection")} == {1}
    lengths = model(images, project=True).projections.detach().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(6))
