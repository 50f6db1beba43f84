"""SCAN's third step: learning from what the network is sure of, and noticing when that fails."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import labelsieve as ls
from labelsieve.data.augment import clean_view
from labelsieve.data.batches import Batch, resident
from labelsieve.data.draws import Draws
from labelsieve.data.strong import Strong, strong_view
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.heads import ClusterHeads
from labelsieve.loop.logs import TIMINGS, EpochLog
from labelsieve.loop.optimizers import Optimizer
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.loop.train import Training
from labelsieve.methods.scan import self_labels as module
from labelsieve.methods.scan.clusterer import Clusterer, train_mode
from labelsieve.methods.scan.health import health
from labelsieve.methods.scan.losses import confident, most_confident
from labelsieve.methods.scan.network import TrainedScan, adam, clean_logits
from labelsieve.methods.scan.self_labels import (
    Plateau,
    SelfLabels,
    self_label_step,
    shrunk,
    too_few,
    train_self_labels,
)
from made_colors import NORMALIZATION, SIZE, Colors, accuracy, colors, states, tiny_network
from processes import together
from test_scan_network import QUICK as SCAN
from test_scan_network import Stopped, in_epochs, in_rate, stop_at, trained

TRAINING = Training(
    epochs=3, batch_size=60, learning_rate=LearningRate(3e-3, shape="constant"),
    optimizer=Optimizer("adam", weight_decay=1e-4),
)  # fmt: skip
QUICK = SelfLabels(
    strong=Strong(size=SIZE, largest_hole=4), clean_size=SIZE, momentum=0.9, training=TRAINING
)
REFERENCE = replace(QUICK, teacher="itself", rule="threshold", threshold=0.7, plateau=0)
KINDS = {"default": QUICK, "reference": REFERENCE}


@pytest.fixture(scope="module")
def made() -> Colors:
    return colors()


@pytest.fixture(scope="module")
def scanned(made) -> TrainedScan:
    """Right, and sure of most."""
    return trained(made, in_rate(in_epochs(SCAN, 14), 0.01))


@pytest.fixture(scope="module")
def unsure(made) -> TrainedScan:
    """Right, and sure of few."""
    return trained(made, in_rate(in_epochs(SCAN, 8), 0.01))


def self_trained(made: Colors, scanned: TrainedScan, settings: SelfLabels = QUICK, **more):
    given = {
        "source": resident(made.pixels), "network": scanned.network, "heads": scanned.heads,
        "rows": made.rows, "valid_rows": made.valid_rows, "normalization": NORMALIZATION,
    }  # fmt: skip
    return train_self_labels(settings=settings, **{**given, **more})


def logits_of(found: TrainedScan, made: Colors) -> torch.Tensor:
    return clean_logits(
        found.network, found.heads, resident(made.pixels), made.valid_rows, NORMALIZATION, SIZE,
        runtime=Runtime.start(),
    )[0]  # fmt: skip


def lines(log: EpochLog) -> list[dict]:
    found = [json.loads(line) for line in log.path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMINGS} for line in found]


def with_training(settings: SelfLabels, **changes) -> SelfLabels:
    return replace(settings, training=replace(settings.training, **changes))


# What it learns


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_grows_sure_and_stays_right(made, scanned, unsure, kind, tmp_path):
    log = EpochLog(tmp_path / "log.jsonl", "self-label")
    settings = with_training(KINDS[kind], epochs=8)
    given = unsure if kind == "default" else scanned
    found = self_trained(made, given, settings, log=log)
    before, after = logits_of(given, made), logits_of(found, made)
    truth = made.truth[made.valid_rows]
    assert accuracy(after.argmax(1).numpy(), truth) > 0.95
    doubts = [1 - float(logits.softmax(1).amax(1).mean()) for logits in (before, after)]
    assert doubts[1] < 0.7 * doubts[0]
    assert (found.epoch, found.warnings) == (7, ())
    told = lines(log)
    assert found.loss == told[-1]["valid_doubt"]
    assert found.loss == pytest.approx(-float(after.log_softmax(1).amax(1).mean()), abs=1e-5)
    now = health(after.softmax(1)).to_log()
    assert now == pytest.approx({name: told[-1][name] for name in now}, abs=1e-6)
    learned = [line["learned"] for line in told]
    if kind == "default":  # grows from 0.3 to 0.6; rounded in batches of 60
        assert learned[0] <= 0.35 < 0.5 <= learned[-1] <= 0.6
        assert learned == sorted(learned)
    else:
        assert learned == [line["confident"] for line in told]


def test_the_surest_of_each_cluster_keep_clusters_alive_that_a_threshold_lets_die(made, unsure):
    settings = with_training(replace(REFERENCE, threshold=0.7), epochs=8)
    found = self_trained(made, unsure, settings)
    assert found.epoch < 7
    assert "lost all its images: 2 of 3 clusters are used, 3 were before" in found.warnings[0]
    assert health(logits_of(found, made).softmax(1)).n_used == 3  # rolled back
    found = self_trained(made, unsure, with_training(QUICK, epochs=8))
    assert (found.epoch, found.warnings) == (7, ())


def test_the_whole_of_scan_finds_obvious_classes(made):
    scan = trained(made, in_rate(in_epochs(SCAN, 10), 0.01))
    found = self_trained(made, scan, with_training(QUICK, epochs=5))
    clusters = logits_of(found, made).argmax(1).numpy()
    assert accuracy(clusters, made.truth[made.valid_rows]) > 0.95


def one_step(made: Colors, scanned: TrainedScan, settings: SelfLabels, choose, teacher=None):
    """A step on the first images, the network after it, and a twin as it was before."""
    model, twin = (Clusterer(scanned.network, scanned.heads, 3) for _ in range(2))
    for each in (model, twin):
        train_mode(each)
    batch = Batch(torch.from_numpy(made.pixels[:50]), torch.arange(50), 2, 1)
    step = self_label_step(
        model, teacher or model, choose, settings, NORMALIZATION, Runtime.start(), 7, 4
    )
    return step(batch), model, twin, batch


def test_the_reference_step_believes_the_network_in_training_mode_and_masks_afterwards(
    made, unsure
):
    settings = replace(REFERENCE, threshold=0.5)
    values, model, twin, batch = one_step(
        made, unsure, settings, lambda logits, _: confident(logits, 0.5)
    )
    with torch.no_grad():
        p = twin(clean_view(batch.images, SIZE, NORMALIZATION))[0].softmax(1)
        sure, labels = p.max(1)
    strong = strong_view(batch.images, settings.strong, Draws(7, 2, batch.rows, 2), NORMALIZATION)
    logits = twin(strong)[0]  # all of them
    mask = sure > 0.5
    assert 0.1 < mask.float().mean() < 0.9
    assert len(set(labels[mask].bincount(minlength=3).tolist()) - {0}) > 1  # unequally many
    each = [
        cross_entropy(logits[mask & (labels == c)], labels[mask & (labels == c)])
        for c in labels[mask].unique()
    ]
    torch.testing.assert_close(values["loss"], torch.stack(each).mean())
    assert values["learned"] == values["confident"] == mask.float().mean()
    assert torch.equal(states(model), states(twin))  # clean and strong views in the statistics


def test_the_step_is_told_how_much_of_the_training_is_done(made, scanned):
    seen = []

    def choose(logits, done):
        seen.append(done)
        return most_confident(logits, 0.5, 3)

    one_step(made, scanned, with_training(QUICK, epochs=10), choose)
    assert seen == [pytest.approx((2 + 1 / 4) / 10)]


def test_the_average_is_the_teacher_and_is_given_back(made, scanned, monkeypatch):
    modes, averages = [], []
    kept = module.Average

    class Watched(kept):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            averages.append(self)

        def forward(self, images):
            norms = [part for part in self.modules() if isinstance(part, torch.nn.BatchNorm2d)]
            modes.append({norm.training for norm in norms})
            return super().forward(images)

    monkeypatch.setattr(module, "Average", Watched)
    found = self_trained(made, scanned)
    assert modes == [{True}] * 9  # of the batches: each with its own statistics
    assert torch.equal(states(found.network), states(averages[0].module.network))
    self_trained(made, scanned, replace(QUICK, frozen_norms=True))
    assert modes[9:] == [{False}] * 9
    still = self_trained(made, scanned, replace(QUICK, momentum=0.999_999))
    for a, b, c in zip(
        still.network.parameters(), scanned.network.parameters(), found.network.parameters(),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert float((b - c).detach().abs().max()) > 1e-4
        assert c.requires_grad
    assert found.heads.weight.requires_grad
    assert not found.network.training


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_norms_keep_their_statistics(made, scanned, kind):
    norms = ("running_mean", "running_var", "num_batches_tracked")
    for frozen in (True, False):
        settings = replace(KINDS[kind], frozen_norms=frozen, threshold=0.4)
        found = self_trained(made, scanned, settings)
        before, after = scanned.network.state_dict(), found.network.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert any(name.endswith(norms) for name in changed) is not frozen
        assert any(name.endswith("bn1.weight") for name in changed)  # weights are trained


# Nothing to learn from


def test_batches_without_a_sure_image_change_nothing(made, scanned, tmp_path):
    log = EpochLog(tmp_path / "log.jsonl", "self-label")
    settings = replace(REFERENCE, threshold=0.9999, least_confident=0.0, frozen_norms=True)
    found = self_trained(made, scanned, settings, log=log)
    told = lines(log)
    assert len(told) == 3
    assert all(line["learned"] == 0 and "loss" not in line for line in told)
    assert torch.equal(states(found.network, found.heads), states(scanned.network, scanned.heads))
    assert found.warnings == ()


def test_too_few_sure_images_stop_the_training_with_advice(made, scanned, tmp_path):
    log = EpochLog(tmp_path / "log.jsonl", "self-label")
    settings = replace(REFERENCE, threshold=0.9999, least_confident=0.25, clean_norms=0)
    found = self_trained(made, scanned, settings, log=log)
    assert len(lines(log)) == 1
    assert found.epoch == -1
    assert torch.equal(states(found.network, found.heads), states(scanned.network, scanned.heads))
    assert found.warnings == (
        "Training stopped after epoch 1. Only 0.00 % of the images had a cluster more probable "
        "than 0.9999; 25.00 % are needed to learn from. Set rule=share, lower the threshold, or "
        "train SCAN for longer. The network given back is the one it began with.",
    )
    share = self_trained(made, scanned, replace(settings, rule="share"))
    assert (share.epoch, share.warnings) == (2, ())  # which finds some in any case


def test_as_few_as_wanted_are_enough():
    assert too_few(0.01, SelfLabels()) is None
    assert too_few(0.0099, SelfLabels()) is not None


def test_batches_that_hold_no_image_for_each_cluster_are_refused(made, scanned):
    settings = with_training(replace(QUICK, smallest_share=0.01, largest_share=0.02), batch_size=60)
    with pytest.raises(
        ConfigError, match="share of 0.02 of 60 images .* none for each of 3 .* at least 150."
    ):
        self_trained(made, scanned, settings)


# When it ends


def plateau_after(shares: list[float], patience: int, gain: float = 0.01) -> int:
    plateau = Plateau(SelfLabels(plateau=patience, plateau_gain=gain))
    for i, share in enumerate(shares):
        if plateau.reached(share):
            return i + 1
    return -1


def test_a_plateau_is_so_many_epochs_that_do_not_raise_the_highest_share():
    assert plateau_after([0.1, 0.2, 0.205, 0.201, 0.3], patience=2) == 4
    assert plateau_after([0.1, 0.2, 0.205, 0.215, 0.22, 0.22], patience=2) == 6
    assert plateau_after([0.3, 0.1, 0.2, 0.25], patience=3) == 4  # rising, but not beyond
    assert plateau_after([0.1] * 30, patience=0) == -1


def test_training_ends_where_the_share_of_sure_images_no_longer_grows(made, scanned, tmp_path):
    told = []
    for plateau in (2, 0):
        log = EpochLog(tmp_path / f"{plateau}.jsonl", "self-label")
        settings = replace(with_training(REFERENCE, epochs=25), plateau=plateau, plateau_gain=0.02)
        found = self_trained(made, scanned, settings, log=log)
        assert found.epoch == len(lines(log)) - 1  # the last
        assert found.warnings == ()
        told.append([line["confident"] for line in lines(log)])
    short, whole = told
    assert len(whole) == 25
    assert 3 <= len(short) < 25
    assert short == whole[: len(short)]
    assert len(short) == plateau_after(whole, patience=2, gain=0.02)


def collapsing(model, *arguments):
    """A step that lets one cluster take all, from the third epoch on."""
    step = self_label_step(model, *arguments)

    def broken(batch):
        if batch.epoch >= 2:
            with torch.no_grad():
                model.heads.bias[:, 2] += 30
        return step(batch)

    return broken


def test_lost_clusters_bring_back_the_last_epoch_that_had_them(
    made, scanned, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "self_label_step", collapsing)
    log = EpochLog(tmp_path / "log.jsonl", "self-label")
    settings = replace(with_training(QUICK, epochs=9), patience=3)
    found = self_trained(made, scanned, settings, log=log)
    assert [line["used_clusters"] for line in lines(log)] == [3, 3, 1, 1, 1]
    assert found.epoch == 1
    assert found.warnings == (
        "Training stopped after epoch 5. Clusters 0 and 1 lost all their images: 1 of 3 clusters "
        "are used, 3 were before. The network given back is that of epoch 2.",
    )
    assert health(logits_of(found, made).softmax(1)).n_used == 3
    monkeypatch.undo()
    two_epochs = with_training(QUICK, epochs=9)
    whole = EpochLog(tmp_path / "whole.jsonl", "self-label")
    self_trained(made, scanned, two_epochs, log=whole)
    assert found.loss == lines(whole)[1]["valid_doubt"]


def test_clusters_that_are_lost_at_the_very_end_are_told_of_as_well(made, scanned, monkeypatch):
    monkeypatch.setattr(module, "self_label_step", collapsing)
    found = self_trained(made, scanned)
    assert found.epoch == 1
    assert found.warnings[0].startswith("At the end of training: Clusters 0 and 1 lost all their")
    assert found.warnings[0].endswith("The network given back is that of epoch 2.")


def sizes(*counts: int):
    rows = torch.eye(len(counts)).repeat_interleave(torch.tensor(counts), dim=0)
    return health(rows)


def test_a_cluster_that_shrinks_far_is_lost_before_it_is_empty():
    before = sizes(100, 110, 120)
    assert shrunk(sizes(41, 140, 149), before, 330, 0.4) is None
    assert shrunk(sizes(140, 39, 151), before, 330, 0.4) == (
        "The smallest cluster has 11.8 % of the images; it had 30.3 % before."
    )
    assert shrunk(sizes(0, 160, 170), before, 330, 0.0) is None
    few = sizes(5, 10, 10)  # five images come and go
    assert shrunk(sizes(1, 12, 12), few, 25, 0.4) is None


# Repeated and interrupted


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_given_stays_as_it_is_and_a_seed_decides_all(made, scanned, kind, tmp_path):
    before = states(scanned.network, scanned.heads)
    told = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        log = EpochLog(tmp_path / name, "self-label")
        found = self_trained(made, scanned, KINDS[kind], seed=seed, log=log)
        told.append((lines(log), states(found.network, found.heads)))
    assert told[0][0] == told[1][0]
    assert torch.equal(told[0][1], told[1][1])
    assert told[0][0] != told[2][0]
    assert torch.equal(states(scanned.network, scanned.heads), before)


# updates: 3 an epoch, 12 in all
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [2, 6, 10])
def test_a_training_goes_on_after_an_interruption_as_if_there_had_been_none(
    made, scanned, tmp_path, kind, at
):
    settings = replace(with_training(KINDS[kind], epochs=4, checkpoint_minutes=1e-9), plateau=9)
    log = EpochLog(tmp_path / "whole.jsonl", "self-label")
    whole = self_trained(made, scanned, settings, log=log)
    again = EpochLog(tmp_path / "again.jsonl", "self-label")
    with pytest.raises(Stopped):
        self_trained(
            made, scanned, settings, folder=tmp_path / "f", log=again, progress=stop_at(at)
        )
    resumed = self_trained(made, scanned, settings, folder=tmp_path / "f", log=again)
    assert torch.equal(states(whole.network, whole.heads), states(resumed.network, resumed.heads))
    assert whole[2:] == resumed[2:]
    assert lines(log) == lines(again)


@pytest.mark.parametrize("end", ["plateau", "lost clusters"])
def test_an_interrupted_training_ends_at_the_same_epoch(made, scanned, tmp_path, end, monkeypatch):
    settings = with_training(REFERENCE, epochs=25, checkpoint_minutes=1e-9)
    settings = replace(settings, plateau=3, plateau_gain=0.3)
    if end == "lost clusters":
        monkeypatch.setattr(module, "self_label_step", collapsing)
        settings = with_training(replace(QUICK, patience=3), epochs=9, checkpoint_minutes=1e-9)
    log = EpochLog(tmp_path / "whole.jsonl", "self-label")
    whole = self_trained(made, scanned, settings, log=log)
    n_epochs = len(lines(log))
    assert n_epochs < settings.training.epochs
    again = EpochLog(tmp_path / "again.jsonl", "self-label")
    stop = stop_at(3 * (n_epochs - 1) + 1)  # in the last epoch: two of three were counted
    with pytest.raises(Stopped):
        self_trained(made, scanned, settings, folder=tmp_path / "f", log=again, progress=stop)
    resumed = self_trained(made, scanned, settings, folder=tmp_path / "f", log=again)
    assert lines(again) == lines(log)
    assert resumed[2:] == whole[2:]


def test_a_training_that_was_stopped_early_is_not_gone_on_with(made, scanned, tmp_path):
    settings = replace(REFERENCE, threshold=0.9999, least_confident=0.25)
    first = self_trained(made, scanned, settings, folder=tmp_path)
    seen = []
    again = self_trained(
        made, scanned, settings, folder=tmp_path, progress=lambda *told: seen.append(told)
    )
    assert seen == []
    assert again.warnings == first.warnings != ()


def steps_here(kind: str) -> dict:
    """Some steps of SGD on this process' share."""
    made = colors(n=61, n_valid=13)
    settings = with_training(
        KINDS[kind], batch_size=12, epochs=2, optimizer=Optimizer("sgd"),
        learning_rate=LearningRate(0.05, shape="constant"),
    )  # fmt: skip
    settings = replace(settings, threshold=0.4, plateau=0, least_confident=0.0)
    torch.manual_seed(0)
    given = TrainedScan(tiny_network(), ClusterHeads(16, 3), 0, 0.0, ())
    found = self_trained(made, given, settings, runtime=Runtime.start())
    return {"state": states(found.network, found.heads), "loss": found.loss}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_does(kind):
    alone = steps_here(kind)
    for found in together(steps_here, kind):
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-4)
        torch.testing.assert_close(found["state"], alone["state"], rtol=1e-4, atol=1e-4)


# Small, wrong and odd input


def test_fewer_images_than_a_batch_are_one_batch(made, scanned):
    seen = []
    settings = with_training(QUICK, batch_size=4096, epochs=2)
    found = self_trained(made, scanned, settings, progress=lambda *told: seen.append(told))
    assert seen == [(1, 2), (2, 2)]
    assert math.isfinite(found.loss)


def test_several_heads_and_too_few_images_are_refused(made, scanned):
    with pytest.raises(ConfigError, match="2 heads; self-labels need the chosen one"):
        self_trained(made, scanned, heads=ClusterHeads(16, 3, 2))
    with pytest.raises(DataError, match="2 images for 3 clusters"):
        self_trained(made, scanned, rows=made.rows[:2])
    with pytest.raises(DataError, match="there are no validation images"):
        self_trained(made, scanned, valid_rows=np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher": "self"}, "teacher is 'self'; expected one of itself, average"),
        ({"rule": "top"}, "rule is 'top'; expected one of threshold, share"),
        ({"threshold": 1.0}, "threshold is 1.0; expected 0 <= threshold < 1"),
        ({"momentum": 1.0}, "momentum is 1.0; expected 0 <= momentum < 1"),
        ({"smallest_share": 0.7}, "shares are 0.7 to 0.6; expected them to rise"),
        ({"largest_share": 1.2}, "shares are 0.3 to 1.2"),
        ({"smallest_share": 0.0, "largest_share": 0.0}, "shares are 0.0 to 0.0"),
        ({"plateau": -1}, "plateau is -1; expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        SelfLabels(**wrong)


def test_settings_are_those_of_the_authors_cifar_10_but_teacher_and_rule():
    settings = SelfLabels()
    assert (settings.teacher, settings.rule) == ("average", "share")
    assert (settings.threshold, settings.balanced, settings.frozen_norms) == (0.99, True, False)
    assert settings.training == adam(200, 1000)
    assert settings.strong == Strong(32, 4, 0.5, 16)


def test_the_authors_ema_is_a_thousandth_of_the_rate():  # G14
    """Their shadow of the weights is loaded into the weights after each step."""
    alpha, rate = 0.999, 0.03
    target = torch.linspace(-1, 1, 5, dtype=torch.float64)
    theirs, ours = (torch.nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    shadow = theirs.detach().clone()
    optimizers = {
        theirs: torch.optim.SGD([theirs], rate, momentum=0.9),
        ours: torch.optim.SGD([ours], rate * (1 - alpha), momentum=0.9),
    }
    for _ in range(6):
        for weight, optimizer in optimizers.items():
            optimizer.zero_grad()
            (weight - target).square().sum().backward()
            optimizer.step()
        with torch.no_grad():
            shadow = alpha * shadow + (1 - alpha) * theirs
            theirs.copy_(shadow)
    torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=0)
    imagenet = ls.cluster_recipe("scan-imagenet50").self_labels
    assert imagenet.training.learning_rate.peak == pytest.approx(rate * (1 - alpha))
    assert imagenet.frozen_norms  # their shadow has the buffers of the beginning
