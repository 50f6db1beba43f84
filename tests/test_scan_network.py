"""SCAN's second step: what it learns, what it leaves alone, and what it says when it fails."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labelsieve.data.augment import Contrastive, clean_view
from labelsieve.data.batches import Batches, resident
from labelsieve.data.samplers import anchor_neighbor
from labelsieve.data.strong import Strong
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import ClusterHeads
from labelsieve.features.inference import clean_of, take_statistics
from labelsieve.loop.logs import TIMINGS, EpochLog
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.methods.scan import network as scan_module
from labelsieve.methods.scan.clusterer import Clusterer, one_head, train_mode
from labelsieve.methods.scan.health import health
from labelsieve.methods.scan.losses import RunningMean, scan_loss
from labelsieve.methods.scan.network import (
    ScanTraining,
    TrainedScan,
    adam,
    clean_logits,
    scan_step,
    train_scan,
    view_of,
)
from labelsieve.methods.scan.selection import Judge, Watch
from labelsieve.records import Neighbors
from made_colors import NORMALIZATION, SIZE, Colors, accuracy, colors, states, tiny_network
from processes import together

QUICK = ScanTraining(
    strong=Strong(size=SIZE, largest_hole=4),
    contrastive=Contrastive(size=SIZE),
    clean_size=SIZE,
    n_heads=3,
    training=Training(
        epochs=3, batch_size=45, learning_rate=LearningRate(3e-3, shape="constant"),
        optimizer=Optimizer("adam", weight_decay=1e-4),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Colors:
    return colors()


def trained(made: Colors, settings: ScanTraining = QUICK, n_clusters: int = 3, **more):
    given = {
        "source": resident(made.pixels), "network": tiny_network(), "neighbors": made.neighbors,
        "rows": made.rows, "valid_rows": made.valid_rows, "valid_neighbors": made.valid_neighbors,
        "normalization": NORMALIZATION,
    }  # fmt: skip
    return train_scan(n_clusters=n_clusters, settings=settings, **{**given, **more})


def logits_of(found: TrainedScan, made: Colors, rows) -> torch.Tensor:
    return clean_logits(
        found.network, found.heads, resident(made.pixels), rows, NORMALIZATION, SIZE,
        runtime=Runtime.start(),
    )  # fmt: skip


def lines(log: EpochLog) -> list[dict]:
    found = [json.loads(line) for line in log.path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in found]


def in_epochs(settings: ScanTraining, epochs: int) -> ScanTraining:
    return replace(settings, training=replace(settings.training, epochs=epochs))


def in_rate(settings: ScanTraining, rate: float) -> ScanTraining:
    learning_rate = replace(settings.training.learning_rate, peak=rate)
    return replace(settings, training=replace(settings.training, learning_rate=learning_rate))


# What it learns


@pytest.mark.parametrize("augmentation", ["strong", "contrastive"])
def test_obvious_classes_are_found(made, augmentation):
    settings = replace(in_rate(in_epochs(QUICK, 14), 0.01), augmentation=augmentation)
    found = trained(made, settings)
    clusters = logits_of(found, made, made.valid_rows)[0].argmax(1).numpy()
    assert accuracy(clusters, made.truth[made.valid_rows]) > 0.95
    assert found.loss < -0.8  # -ln 3 = -1.0986 at best
    assert found.warnings == ()
    assert found.heads.settings.n_heads == 1
    assert not found.network.training
    assert not found.heads.training


def test_the_step_is_equation_2_of_two_passes_each_with_its_own_statistics(made):
    runtime = Runtime.start()
    model = Clusterer(tiny_network(), ClusterHeads(16, 3, 2), 3)
    twin = Clusterer(model.network, model.heads, 3)
    train_mode(model)
    train_mode(twin)
    view = view_of(QUICK, NORMALIZATION, seed=5)
    step = scan_step(model, view, QUICK, RunningMean(2, 3, 0.0), runtime)
    batches = Batches(
        resident(made.pixels), anchor_neighbor(made.neighbors.indices, 20, 5, rows=made.rows)
    )
    batch = next(batches.epoch(3))
    found = step(batch)
    assert batch.images.shape == (20, 2, 3, SIZE, SIZE)
    passes = [twin(view(batch.images[:, i], batch.rows[:, i], 3, i)) for i in (0, 1)]
    expected = scan_loss(*passes, 5.0)
    torch.testing.assert_close(found["loss"], expected.loss.sum())
    torch.testing.assert_close(found["consistency"], expected.consistency.mean())
    torch.testing.assert_close(found["batch_entropy"], expected.entropy.mean())
    assert torch.equal(states(model), states(twin))  # two updates of the running statistics each
    together_ = torch.cat([view(batch.images[:, i], batch.rows[:, i], 3, i) for i in (0, 1)])
    shared = scan_loss(*twin(together_).chunk(2, dim=1), 5.0)
    assert not torch.allclose(found["loss"], shared.loss.sum(), rtol=1e-6)


def test_an_image_that_is_its_own_neighbor_is_seen_in_two_views(made):
    view = view_of(QUICK, NORMALIZATION, seed=0)
    images, rows = torch.from_numpy(made.pixels[:8]), torch.arange(8)
    first, second = (view(images, rows, 0, place) for place in (0, 1))
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(first, view(images, rows, 0, 0))
    assert not torch.equal(first, view(images, rows, 1, 0))
    alone = view(images[3:4], rows[3:4], 0, 0)  # draws belong to the image and not to the batch
    torch.testing.assert_close(first[3:4], alone)


def test_earlier_batches_count_where_they_are_kept(made):
    runtime = Runtime.start()
    settings = replace(QUICK, keep=0.8)
    model = Clusterer(tiny_network(), ClusterHeads(16, 3, 2), 3).eval()
    view = view_of(settings, NORMALIZATION, 0)
    running = RunningMean(2, 3, 0.8)
    running.mean.copy_(torch.tensor([[0.98, 0.01, 0.01], [0.2, 0.4, 0.4]]))
    before = running.mean.clone()
    sampler = anchor_neighbor(made.neighbors.indices, 20, 5, rows=made.rows)
    batch = next(Batches(resident(made.pixels), sampler).epoch(0))
    found = scan_step(model, view, settings, running, runtime)(batch)
    passes = [model(view(batch.images[:, i], batch.rows[:, i], 0, i)) for i in (0, 1)]
    expected = scan_loss(*passes, 5.0, before=before, keep=0.8)
    torch.testing.assert_close(found["loss"], expected.loss.sum())
    mean = 0.8 * before + 0.2 * passes[0].softmax(2).mean(1)
    torch.testing.assert_close(running.mean, mean)


# What decides


def test_the_epoch_and_the_head_of_the_lowest_validation_loss_are_given_back(made, tmp_path):
    log = EpochLog(tmp_path / "log.jsonl", "scan")
    settings = replace(in_epochs(QUICK, 5), n_heads=4)
    found = trained(made, settings, log=log)
    told = lines(log)
    losses = {(e, h): line[f"valid_loss_{h}"] for e, line in enumerate(told) for h in range(4)}
    epoch, head = min(losses, key=losses.get)
    assert (found.epoch, found.loss) == (epoch, losses[epoch, head])
    for line in told:
        own = [line[f"valid_loss_{head}"] for head in range(4)]
        assert line["valid_loss"] == min(own)
        assert line["valid_head"] == own.index(min(own))
        assert line["valid_gap"] == pytest.approx(line["valid_loss"] + math.log(3), abs=1e-6)
    again = logits_of(found, made, made.valid_rows)
    judge = Judge(made.valid_neighbors, len(made.valid_rows), 5.0, None, 3)
    losses_again, values = judge(again)
    assert losses_again.tolist() == pytest.approx([found.loss], abs=1e-5)
    assert found.loss == pytest.approx(told[epoch]["valid_loss"])
    assert values["valid_loss_weighted"] == pytest.approx(
        told[epoch]["valid_loss_weighted"], abs=1e-4
    )
    now = health(again[0].softmax(1))
    assert now.to_log() == pytest.approx({name: told[epoch][name] for name in now.to_log()})


def slow_criterion(logits, neighbors, weight, prior):
    """One head, loops over images: what `Judge` gives, as float64."""
    rows = [[math.exp(value) for value in row] for row in logits]
    rows = [[value / sum(row) for value in row] for row in rows]
    total, n = 0.0, 0
    for row, others in zip(rows, neighbors, strict=True):
        for other in [row, *(rows[j] for j in others)]:
            total -= math.log(sum(a * b for a, b in zip(row, other, strict=True)))
            n += 1
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    by_rank = zip(sorted(mean), sorted(prior), strict=True)
    divergence = sum(m * math.log(m / p) for m, p in by_rank)
    return total / n + weight * (divergence - math.log(len(mean)))


@given(seed=st.integers(0, 9999), n=st.integers(3, 9), k=st.integers(1, 4), heads=st.integers(1, 3))
def test_the_criterion_is_that_of_loops_with_weight_1_and_lambda(seed, n, k, heads):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(heads, n, 4)).astype(np.float32) * 3
    indices = random.integers(0, n, (n, k))
    neighbors = Neighbors(indices, np.zeros((n, k), np.float32))
    for prior in (None, random.uniform(0.1, 1, 4)):
        losses, values = Judge(neighbors, n, 7.0, prior, 4)(torch.from_numpy(logits))
        shares = np.full(4, 0.25) if prior is None else prior / prior.sum()
        expected = [slow_criterion(head.tolist(), indices, 1, shares) for head in logits]
        assert losses.tolist() == pytest.approx(expected, abs=1e-4)
        best = int(losses.argmin())
        weighted = slow_criterion(logits[best].tolist(), indices, 7, shares)
        assert values["valid_loss_weighted"] == pytest.approx(weighted, abs=1e-4)


def test_heads_that_were_given_are_kept_where_training_makes_them_worse(made):
    good = trained(made, in_epochs(QUICK, 14))
    wild = replace(QUICK.training, epochs=2, learning_rate=LearningRate(3.0, shape="constant"))
    settings = replace(QUICK, training=wild, patience=0)
    found = trained(made, settings, network=good.network, heads=good.heads)
    assert found.epoch == -1
    assert torch.equal(states(found.network, found.heads), states(good.network, good.heads))


def test_clusters_of_expected_sizes_end_nearer_to_the_optimum_whatever_their_order():
    made = colors(n=300, seed=3, parts=(0, 1, 1, 1, 2, 2, 2))
    settings = in_rate(in_epochs(QUICK, 20), 0.01)
    sizes = np.bincount(made.truth[made.rows])
    judge = Judge(made.valid_neighbors, len(made.valid_rows), 5.0, sizes, 3)
    losses = []
    for prior in (None, sizes):
        found = trained(made, settings, prior=prior, seed=1)
        clusters = logits_of(found, made, made.rows)[0].argmax(1).numpy()
        assert accuracy(clusters, made.truth[made.rows]) > 0.95
        losses.append(float(judge(logits_of(found, made, made.valid_rows))[0]))
    assert losses[1] < losses[0] - 0.05
    few = in_epochs(settings, 4)
    found, other = (trained(made, few, prior=prior, seed=1) for prior in (sizes, sizes[::-1] / 7))
    torch.testing.assert_close(states(found.network), states(other.network), rtol=1e-4, atol=1e-4)


# What stays as it is


def test_the_network_that_was_given_stays_as_it_is(made):
    network, heads = tiny_network(), ClusterHeads(16, 3, 2)
    before = states(network, heads)
    found = trained(made, network=network, heads=heads)
    assert torch.equal(states(network, heads), before)
    assert network.training
    assert not torch.equal(states(found.network), states(network))


def test_heads_alone_leave_the_network_bit_for_bit(made):
    network = tiny_network()
    found = trained(made, replace(QUICK, trained="heads"), network=network)
    assert torch.equal(states(found.network), states(network))  # buffers of batch norms as well
    assert all(weight.requires_grad for weight in found.network.parameters())
    fresh = trained(made, replace(in_epochs(QUICK, 1), trained="heads"), network=network)
    assert not torch.equal(states(found.heads), states(fresh.heads))


def test_one_head_of_several_says_what_it_said_among_them():
    heads, features = ClusterHeads(4, 3, 5), torch.randn(7, 4)
    for place in range(5):
        chosen = one_head(heads, place)
        assert chosen.settings.n_heads == 1
        torch.testing.assert_close(chosen(features)[0], heads(features)[place])
    with torch.no_grad():
        chosen.weight.zero_()
    assert bool(heads.weight[4].any())  # a copy


def test_statistics_are_taken_of_images_as_they_are(made):
    model = Clusterer(tiny_network(), ClusterHeads(16, 3), 3)
    train_mode(model, frozen_network=True)
    model.network.layer1.train()
    modes = [part.training for part in model.modules()]
    weights = [weight.clone() for weight in model.parameters()]
    rows = np.sort(made.rows)
    given = (rows, 30, clean_of(SIZE, NORMALIZATION))
    take_statistics(model, resident(made.pixels), *given, runtime=Runtime.start(), batch_size=99)
    assert [part.training for part in model.modules()] == modes
    assert all(map(torch.equal, model.parameters(), weights))
    norm = model.network.bn1
    assert (norm.momentum, int(norm.num_batches_tracked)) == (0.1, 1)
    drawn = np.random.default_rng(0).permutation(rows)[:30]
    assert len(set(made.truth[drawn])) == 3  # not the first ones: sets are often sorted by class
    images = clean_view(torch.from_numpy(made.pixels[drawn]), SIZE, NORMALIZATION)
    maps = model.network.conv1(images)
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, maps.transpose(0, 1).flatten(1).var(1))
    # in two batches: the mean of both, whatever was there before
    take_statistics(model, resident(made.pixels), *given, runtime=Runtime.start(), batch_size=15)
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)))
    assert int(norm.num_batches_tracked) == 2


def test_the_network_that_comes_back_has_clean_statistics_unless_told_otherwise(made):
    for n_images, differs in ((9999, False), (0, True)):
        found = trained(made, replace(QUICK, clean_norms=n_images))
        again = Clusterer(found.network, found.heads, 3)
        take_statistics(
            again, resident(made.pixels), made.rows, 9999, clean_of(SIZE, NORMALIZATION),
            runtime=Runtime.start(),
        )  # fmt: skip
        assert torch.equal(states(again.network), states(found.network)) is not differs


# Repeated and interrupted


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(made, tmp_path):
    told = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        log = EpochLog(tmp_path / name, "scan")
        found = trained(made, seed=seed, log=log)
        told.append((lines(log), states(found.network, found.heads)))
    assert told[0][0] == told[1][0]
    assert torch.equal(told[0][1], told[1][1])
    assert told[0][0] != told[2][0]


class Stopped(Exception):
    pass


def stop_at(n: int):
    def progress(done: int, total: int) -> None:
        if done == n:
            raise Stopped

    return progress


# updates: 4 an epoch, 12 in all; in the first epoch, at its end, in the second, in the last
@pytest.mark.parametrize("at", [2, 4, 7, 11])
def test_a_training_goes_on_after_an_interruption_as_if_there_had_been_none(made, tmp_path, at):
    settings = replace(QUICK, keep=0.5, training=replace(QUICK.training, checkpoint_minutes=1e-9))
    log = EpochLog(tmp_path / "whole.jsonl", "scan")
    whole = trained(made, settings, log=log)
    again = EpochLog(tmp_path / "again.jsonl", "scan")
    with pytest.raises(Stopped):
        trained(made, settings, folder=tmp_path / "f", log=again, progress=stop_at(at))
    resumed = trained(made, settings, folder=tmp_path / "f", log=again)
    assert torch.equal(states(whole.network, whole.heads), states(resumed.network, resumed.heads))
    assert whole[2:] == resumed[2:]
    assert lines(log) == lines(again)
    finished = trained(made, settings, folder=tmp_path / "f", progress=stop_at(12))  # no update
    assert torch.equal(states(whole.network, whole.heads), states(finished.network, finished.heads))


def steps_here(n_heads: int, trained_part: str) -> dict:
    """Some steps of SGD on this process' share, and what all processes then say of images."""
    made = colors(n=61, n_valid=13)  # shares of the validation images are unequal
    runtime = Runtime.start()
    settings = replace(
        QUICK,
        n_heads=n_heads,
        trained=trained_part,
        keep=0.3,
        training=Training(
            epochs=2, batch_size=12, learning_rate=LearningRate(0.05, shape="constant"),
            optimizer=Optimizer("sgd"),
        ),
    )  # fmt: skip
    found = trained(made, settings, runtime=runtime)
    rows = np.arange(59)  # an odd number
    logits = clean_logits(
        found.network, found.heads, resident(made.pixels), rows, NORMALIZATION, SIZE,
        runtime=runtime, batch_size=16,
    )  # fmt: skip
    return {
        "state": states(found.network, found.heads),
        "logits": logits,
        "loss": found.loss,
        "epoch": found.epoch,
    }


@pytest.mark.parametrize("trained_part", ["all", "heads"])
def test_two_processes_learn_what_one_does(trained_part):
    alone = steps_here(2, trained_part)
    for found in together(steps_here, 2, trained_part):
        assert found["epoch"] == alone["epoch"]
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found["logits"], alone["logits"], rtol=1e-3, atol=1e-3)


def test_bfloat16_learns_as_well_and_gives_float32_logits(made):
    training = replace(QUICK.training, epochs=14, precision="bfloat16")
    found = trained(made, replace(QUICK, training=training))
    logits = logits_of(found, made, made.valid_rows)
    assert logits.dtype == torch.float32
    assert accuracy(logits[0].argmax(1).numpy(), made.truth[made.valid_rows]) > 0.95
    runtime = Runtime.start(precision="bfloat16")
    prepared = runtime.prepare(Clusterer(found.network, found.heads, 3)).eval()
    images = clean_view(torch.from_numpy(made.pixels[:40]), SIZE, NORMALIZATION)
    logits = prepared(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())  # of heads that were not rounded


# Collapse


def test_training_stops_where_clusters_stay_lost_and_the_best_epoch_comes_back(
    made, tmp_path, monkeypatch
):
    good = trained(made, in_epochs(QUICK, 14))

    def collapsing(*arguments, **more):
        step = scan_step(*arguments, **more)
        model = arguments[0]

        def broken(batch):
            values = step(batch)
            # as bad as a learning rate can make it: everything goes to cluster 1
            bias = model.heads.bias
            with torch.no_grad():
                bias[:, 1] += 5
            return values

        return broken

    monkeypatch.setattr(scan_module, "scan_step", collapsing)
    log = EpochLog(tmp_path / "log.jsonl", "scan")
    settings = replace(in_epochs(QUICK, 9), patience=2)
    found = trained(made, settings, network=good.network, heads=good.heads, log=log)
    assert len(lines(log)) == 2
    assert found.epoch == -1
    assert torch.equal(states(found.network, found.heads), states(good.network, good.heads))
    assert found.warnings == (
        "Training stopped after epoch 2. Clusters 0 and 2 lost all their images: 1 of 3 clusters "
        "are used, 3 were before. The network given back is the one it began with.",
    )
    patient = replace(settings, patience=0)
    found = trained(made, in_epochs(patient, 4), network=good.network, heads=good.heads, log=log)
    assert found.epoch == -1
    assert found.warnings[0].startswith("At the end of training: Clusters 0 and 2 lost")


def looks(counts: list[int], patience: int = 2, n_clusters: int = 4) -> tuple[int, Watch]:
    """Epochs until a watch stops, each with so many clusters in use, the first the best."""
    watch = Watch(patience)
    for epoch, count in enumerate(counts):
        now = health(torch.eye(n_clusters)[:count])
        if watch.look(epoch, now, watch.lost(now), is_new=epoch == 0):
            return epoch + 1, watch
    return len(counts) + 1, watch


def test_only_epochs_in_a_row_with_lost_clusters_stop_a_training():
    assert looks([4, 3, 4, 3, 4])[0] == 6
    assert looks([4, 3, 3, 4, 4])[0] == 3
    assert looks([4, 3, 3, 3], patience=3)[0] == 4
    assert looks([4, 1, 1, 1, 1, 1], patience=0)[0] == 7
    assert looks([2, 4, 2, 2, 3])[0] == 6


def test_of_many_clusters_a_few_may_come_and_go():
    assert looks([100, 98, 98, 98], n_clusters=100)[0] == 5
    assert looks([100, 97, 97, 97], n_clusters=100)[0] == 3


def test_a_watch_goes_on_counting_after_a_checkpoint():
    _, watch = looks([4, 3])
    again = Watch(2)
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    now = health(torch.eye(4)[:3])
    assert again.look(2, now, again.lost(now))
    assert again.warnings(0) == watch_warnings("Cluster 3 lost all its images", 3)


def watch_warnings(problem: str, epoch: int) -> tuple[str, ...]:
    return (
        f"Training stopped after epoch {epoch}. {problem}: 3 of 4 clusters are used, 4 were "
        "before. The network given back is that of epoch 1.",
    )


def test_clusters_that_nobody_is_in_are_told_of():
    _, watch = looks([3])
    assert watch.warnings(0) == (
        "Of 4 clusters 3 have any of the validation images. There may be fewer classes, or too "
        "few images to learn so many from.",
    )


# Small, wrong and odd input


def test_fewer_images_than_a_batch_are_one_batch(made, tmp_path):
    log = EpochLog(tmp_path / "log.jsonl", "scan")
    settings = replace(QUICK, training=replace(QUICK.training, batch_size=4096, epochs=2))
    seen = []
    found = trained(made, settings, log=log, progress=lambda *told: seen.append(told))
    assert seen == [(1, 2), (2, 2)]
    assert math.isfinite(found.loss)


def test_clean_logits_are_those_of_each_image_alone(made):
    network, heads = tiny_network(), ClusterHeads(16, 3, 2)
    rows = np.array([5, 200, 5, 17, 0])
    network.layer1.eval()  # modes come back part by part
    modes = [part.training for part in network.modules()]
    found = clean_logits(
        network, heads, resident(made.pixels), rows, NORMALIZATION, 8, runtime=Runtime.start(),
        batch_size=2,
    )  # fmt: skip
    assert [part.training for part in network.modules()] == modes
    assert found.shape == (2, 5, 3)
    assert not found.requires_grad
    network.eval()
    for place, row in enumerate(rows):
        view = clean_view(torch.from_numpy(made.pixels[row, None]), 8, NORMALIZATION)
        torch.testing.assert_close(found[:, place], heads(network(view))[:, 0])


def test_too_few_images_or_none_to_validate_on_are_refused(made):
    with pytest.raises(DataError, match="180 images for 181 clusters; expected more images than"):
        trained(made, n_clusters=181)
    with pytest.raises(DataError, match="there are no validation images; .* Hold some out"):
        trained(made, valid_rows=made.valid_rows[:0])
    with pytest.raises(ConfigError, match="n_clusters is 1; at least 2 are needed"):
        trained(made, n_clusters=1)


def test_neighbors_of_other_rows_are_refused(made):
    with pytest.raises(DataError, match="valid_neighbors has 180 rows for 60 validation images"):
        trained(made, valid_neighbors=made.neighbors)
    indices = made.valid_neighbors.indices.copy()
    indices[3, 1] = -1
    with pytest.raises(DataError, match="of indices into valid_rows"):
        trained(made, valid_neighbors=replace(made.valid_neighbors, indices=indices))
    with pytest.raises(DataError, match="180 rows for neighbors of 60"):
        trained(made, neighbors=made.valid_neighbors)


def test_heads_and_priors_of_another_shape_are_refused(made):
    with pytest.raises(ConfigError, match="heads take 16 features to 4 clusters; .* gives 16, and"):
        trained(made, heads=ClusterHeads(16, 4))
    for prior in ([0.5, 0.5], [0.5, 0.5, 0.0]):
        with pytest.raises(ConfigError, match="expected 3 sizes above 0, one for each cluster"):
            trained(made, prior=np.array(prior))
    with pytest.raises(ConfigError, match="Flatten has no whole number n_features"):
        trained(made, network=nn.Flatten())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"augmentation": "weak"}, "augmentation is 'weak'; expected one of strong, contrastive"),
        ({"trained": "head"}, "trained is 'head'; expected one of all, heads"),
        ({"n_heads": 0}, "n_heads is 0; expected 1 or more"),
        ({"patience": -1}, "patience is -1; expected 0 or more"),
        ({"keep": 1.0}, "keep 1.0; expected 0 or more, and 0 <= keep < 1"),
        ({"entropy_weight": -1.0}, "entropy_weight is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        ScanTraining(**wrong)


def test_settings_are_those_of_the_authors_cifar_10():
    settings = ScanTraining()
    assert (settings.augmentation, settings.n_heads, settings.trained) == ("strong", 1, "all")
    assert (settings.entropy_weight, settings.keep) == (5, 0)
    assert settings.training == adam(50, 128)
    assert settings.training.learning_rate.at(0) == settings.training.learning_rate.at(0.99) == 1e-4
    optimizer = settings.training.optimizer
    assert (optimizer.name, optimizer.weight_decay, optimizer.decay_all) == ("adam", 1e-4, True)
    assert (optimizer.momentum, optimizer.second_momentum) == (0.9, 0.999)
    assert settings.strong == Strong(32, 4, 0.5, 16)
