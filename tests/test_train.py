from __future__ import annotations

import errno
import json
import math
import multiprocessing
import random
import signal
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, normalize

import killed_training
from labelsieve.config import from_dict, overrides, to_dict
from labelsieve.data.batches import Batches, resident
from labelsieve.data.samplers import shuffled
from labelsieve.errors import ConfigError, MissingExtraError, NumericError, RunError
from labelsieve.loop.checkpoints import Checkpoint
from labelsieve.loop.logs import TIMINGS, EpochLog
from labelsieve.loop.optimizers import Average, Optimizer, make_optimizers
from labelsieve.loop.rates import LearningRate, cosine, one_cycle, steps
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.loop.train import Training, train
from processes import together

PLAIN = Training(
    epochs=3,
    batch_size=4,
    learning_rate=LearningRate(peak=0.1, shape="constant"),
    optimizer=Optimizer(momentum=0.0, weight_decay=0.0),
)


# Learning rates


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 0.4), (1, 0.399996), (125, 0.341480), (250, 0.2002), (375, 0.058920), (499, 0.000404)],
)
def test_cosine_is_that_of_the_reference_code(epoch, expected):
    rate = LearningRate(peak=0.4, shape="cosine", final=0.1**3)
    assert rate.at(epoch / 500) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(("rise", "start", "final"), [(0.3, 1 / 25, 1 / 25e4), (0.5, 0.1, 0.0)])
def test_one_cycle_is_that_of_torch(rise, start, final):
    n = 21  # torch's ramps end on its steps: 20 intervals
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.7, total_steps=n, pct_start=(rise * (n - 1) + 1) / n, div_factor=1 / start,
        final_div_factor=start / final if final else 1e300, cycle_momentum=False,
    )  # fmt: skip
    rate = LearningRate(0.7, "one-cycle", warmup=rise, start=start, final=final)
    for i in range(n):
        assert rate.at(i / (n - 1)) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        if i < n - 1:
            theirs.step()


def test_steps_are_cut_where_they_say():
    rate = LearningRate(peak=1.0, shape="steps", cuts=(0.4, 0.75), cut_factor=0.1)
    epochs = [0, 799, 800, 1499, 1500, 1999]
    found = [rate.at(epoch / 2000) for epoch in epochs]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert steps(0.5, (), 0.1) == 1


shapes = st.sampled_from(["constant", "cosine", "steps", "one-cycle"])
unit = st.floats(0, 1)


@given(shapes, st.floats(0, 0.99), unit, unit, st.lists(unit, min_size=2, max_size=9))
def test_rates_rise_in_the_warmup_and_never_after_it(shape, warmup, start, final, moments):
    cuts = (0.3, 0.6) if shape == "steps" else ()
    rate = LearningRate(2.0, shape, warmup=warmup, start=start, final=final, cuts=cuts)
    moments = sorted(moments)
    rates = [rate.at(moment) for moment in moments]
    assert all(-1e-12 <= r <= 2 + 1e-12 for r in rates)
    for (a, b), (before, after) in zip(pairwise(moments), pairwise(rates), strict=True):
        if b < warmup:
            assert after >= before - 1e-12
        elif a >= warmup:
            assert after <= before + 1e-12


@pytest.mark.parametrize("shape", ["constant", "cosine", "one-cycle"])
def test_warmup_goes_from_its_start_to_the_peak(shape):
    rate = LearningRate(2.0, shape, warmup=0.25, start=0.5)
    assert rate.at(0.0) == pytest.approx(1.0)
    assert rate.at(0.125) == pytest.approx(1.5)
    assert rate.at(0.25) == pytest.approx(2.0)


def test_cosine_and_one_cycle_end_at_their_final_rate():
    assert cosine(1.0, 0.25) == pytest.approx(0.25)
    assert one_cycle(1.0, 0.3, 0.1, 0.25) == pytest.approx(0.25)
    assert one_cycle(0.0, 0.0, 0.1, 0.25) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": "linear"}, "shape is 'linear'; expected one of constant, cosine, steps"),
        ({"peak": 0.0}, "peak is 0.0; the learning rate must be above 0."),
        ({"final": 1.5}, "final is 1.5; expected 0 to 1."),
        ({"warmup": 1.0}, "warmup is 1.0; expected 0 <= warmup < 1."),
        ({"shape": "steps"}, r"cuts are \(\) and shape is 'steps'; 'steps' needs cuts, such as"),
        ({"cuts": (0.5,)}, r"cuts are \(0.5,\) and shape is 'cosine'"),
        ({"shape": "steps", "cuts": (0.5, 0.5)}, "expected rising shares between 0 and 1."),
        ({"shape": "steps", "cuts": (1.0,)}, "expected rising shares between 0 and 1."),
    ],
)
def test_learning_rates_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        LearningRate(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; at least 1 is needed."),
        ({"accumulate": 0}, "accumulate is 0; at least 1 is needed."),
        ({"largest_gradient": -1.0}, "largest_gradient is -1.0; expected 0 or more."),
        (
            {"precision": "half"},
            "precision is 'half'; expected one of fastest, float32, bfloat16, float16.",
        ),
        ({"checkpoint_minutes": 0.0}, "checkpoint_minutes is 0.0; expected above 0."),
    ],
)
def test_trainings_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Training(**changes)


def test_settings_of_a_training_are_set_by_name_and_survive_json():
    words = ["learning_rate.shape=steps", "learning_rate.cuts=0.4,0.75", "optimizer.name=muon"]
    settings = overrides(Training(), words)
    assert settings.learning_rate.cuts == (0.4, 0.75)
    assert from_dict(Training(), json.loads(json.dumps(to_dict(settings))), "f") == settings


# The loop


class Toy:
    """Four batches of four numbers an epoch; a network of one weight; what was seen is kept."""

    def __init__(self, settings=PLAIN, n=16):
        self.net = nn.Linear(1, 1, bias=False).double()
        nn.init.ones_(self.net.weight)
        self.settings, self.seen, self.rates = settings, [], []
        self.optimizers = make_optimizers(settings.optimizer, [self.net])
        pixels = np.zeros((n, 3, 2, 2), np.uint8)
        self.batches = Batches(resident(pixels), shuffled(n, settings.batch_size, seed=0))

    def step(self, batch):
        self.seen.append((batch.epoch, batch.step))
        self.rates.append(self.optimizers[0].param_groups[0]["lr"])
        rows = batch.rows.double()[:, None] / 10
        return {"loss": self.net(rows).square().mean(), "rows": rows.mean()}

    def train(self, **given):
        runtime = Runtime.start()
        given = {"state": {"net": self.net}, **given}
        return train(
            self.step, self.batches, self.optimizers, self.settings, runtime=runtime, **given
        )

    def expected_weight(self, accumulate=1, largest=math.inf, first=None):
        """The same by hand: w -= rate * mean over batches of mean 2 w x^2, clipped."""
        weight = 1.0
        for epoch in range(self.settings.epochs):
            batches = [b / 10 for b in self.batches.sampler.epoch(epoch)]
            for i in range(0, len(batches), accumulate):
                group = batches[i : i + accumulate]
                gradient = np.mean([2 * weight * np.mean(x**2) for x in group])
                weight -= 0.1 * min(largest, gradient)
        return weight


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 9])
def test_batches_that_share_an_update_count_as_one_even_when_fewer_are_left(accumulate):
    toy = Toy(replace(PLAIN, accumulate=accumulate))
    toy.train()
    assert toy.net.weight.item() == pytest.approx(toy.expected_weight(accumulate), rel=1e-12)


def test_large_gradients_are_shrunk_to_the_largest_allowed():
    toy = Toy(replace(PLAIN, largest_gradient=0.3))
    toy.train()
    assert toy.net.weight.item() == pytest.approx(toy.expected_weight(largest=0.3), rel=1e-5)
    assert toy.net.weight.item() != pytest.approx(toy.expected_weight(), rel=1e-3)


@pytest.mark.parametrize("by_epoch", [False, True])
def test_the_learning_rate_of_each_update_is_that_of_its_first_batch(by_epoch):
    rate = LearningRate(peak=0.1, by_epoch=by_epoch)
    toy = Toy(replace(PLAIN, learning_rate=rate, accumulate=3))
    history = toy.train()
    firsts = [0, 0, 0, 3]
    expected = [
        rate.at((epoch + (0 if by_epoch else first / 4)) / 3) for epoch in range(3)
        for first in firsts
    ]  # fmt: skip
    assert toy.rates == expected
    assert [values["learning_rate"] for values in history] == expected[3::4]


def test_a_group_of_weights_has_its_own_share_of_the_rate():
    toy = Toy()
    toy.optimizers[0].param_groups[0]["lr_factor"] = 0.5
    toy.train()
    assert toy.rates == pytest.approx([0.05] * 12)


def test_the_log_has_a_line_an_epoch_with_the_means_of_all_values(tmp_path: Path):
    toy, told = Toy(), []
    log = EpochLog(tmp_path / "log.jsonl", "toy")
    history = toy.train(log=log, progress=lambda *done: told.append(done))
    assert told == [(i, 12) for i in range(1, 13)]
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [{"phase": "toy", "epoch": i, **values} for i, values in enumerate(history)]
    names = ["loss", "rows", "learning_rate", "images_per_second", "waiting_share"]
    assert [list(values) for values in history] == [names] * 3
    for values in history:
        assert values["rows"] == pytest.approx(0.75, rel=1e-12)  # of 0 to 1.5
        assert values["images_per_second"] > 0
        assert 0 <= values["waiting_share"] <= 1
    assert history[0]["loss"] > history[2]["loss"]


def test_a_slow_source_and_slow_hooks_are_told_apart():
    toy = Toy(replace(PLAIN, epochs=2))
    fetch = toy.batches.source.fetch

    def slow(wanted, device):
        for found in fetch(wanted, device):
            time.sleep(0.05)
            yield found

    toy.batches.source.fetch = slow
    history = toy.train(after_epoch=lambda epoch, values: time.sleep(0.5))
    for values in history:
        assert values["waiting_share"] > 0.5
        assert values["images_per_second"] > 16 / 0.5  # 0.2 s of waiting, not 0.7


def test_after_an_epoch_values_are_added_and_training_is_stopped(tmp_path: Path):
    toy = Toy(replace(PLAIN, epochs=9))

    def after_epoch(epoch, values):
        values["score"] = np.float32(epoch + 0.5)
        return epoch == 1

    given = {"after_epoch": after_epoch, "folder": tmp_path}
    history = toy.train(**given, log=EpochLog(tmp_path / "log.jsonl", "toy"))
    assert [values["score"] for values in history] == [0.5, 1.5]
    assert "1.5" in (tmp_path / "log.jsonl").read_text()
    n = len(toy.seen)
    assert toy.train(**given) == history  # it stays stopped
    assert len(toy.seen) == n


def test_a_finished_training_is_not_trained_again(tmp_path: Path):
    toy = Toy()
    history = toy.train(folder=tmp_path)
    weight = toy.net.weight.item()
    other = Toy()
    assert other.train(folder=tmp_path) == history
    assert other.seen == []
    assert other.net.weight.item() == weight


def test_a_value_that_is_given_now_and_then_is_averaged_over_where_it_is():
    toy = Toy(replace(PLAIN, epochs=1))
    plain = toy.step

    def step(batch):
        extra = {"even": torch.tensor(float(batch.step))} if batch.step % 2 == 0 else {}
        return {**plain(batch), **extra}

    toy.step = step
    assert toy.train()[0]["even"] == 1.0  # of 0 and 2


def test_a_value_is_that_of_its_time():
    toy = Toy(replace(PLAIN, epochs=1))
    count, plain = torch.zeros((), dtype=torch.float64), toy.step

    def step(batch):
        count.add_(1)
        return {**plain(batch), "count": count}

    toy.step = step
    assert toy.train()[0]["count"] == 2.5  # of 1, 2, 3, 4


# Batches without a loss


class Skipping(Toy):
    """A toy whose step has no loss in some batches, given as (epoch, step)."""

    def __init__(self, without, settings=PLAIN):
        super().__init__(settings)
        self.without = without

    def step(self, batch):
        values = super().step(batch)
        if (batch.epoch, batch.step) in self.without:
            del values["loss"]
        return values


ADAM = replace(PLAIN, optimizer=Optimizer("adam"))  # whose state moves even where gradients are 0


def everything(toy):
    states = [optimizer.state_dict()["state"] for optimizer in toy.optimizers]
    return toy.net.weight.item(), json.dumps(states, default=lambda tensor: tensor.tolist())


def test_an_update_without_a_loss_leaves_weights_and_optimizer_as_they_are():
    toy, moments = Skipping({(0, 1), (0, 2), (1, 0)}, ADAM), []
    toy.train(progress=lambda *_: moments.append(everything(toy)))
    assert len(moments) == 12  # progress goes on
    same = [i for i in range(1, 12) if moments[i] == moments[i - 1]]
    assert same == [1, 2, 4]
    steps_taken = [state["step"].item() for state in toy.optimizers[0].state.values()]
    assert steps_taken == [9]


def test_an_average_does_not_follow_an_update_without_a_loss():
    toy = Skipping({(epoch, step) for epoch in range(3) for step in range(4)} - {(1, 2)})
    average = Average(toy.net, 0.5)
    average.follow(toy.optimizers[0])
    toy.train()
    assert toy.net.weight.item() != 1
    assert average.module.weight.item() == pytest.approx((1 + toy.net.weight.item()) / 2)


@pytest.mark.parametrize("without", [{0}, {1}, {2}, {0, 1}, {1, 2}, {0, 1, 2}, {3}, {0, 3}])
def test_an_update_is_the_mean_over_its_batches_with_a_loss(without):
    settings = replace(PLAIN, accumulate=3, epochs=1)  # of batches 0 to 2, and of 3
    toy, weight = Skipping({(0, step) for step in without}, settings), 1.0
    batches = [rows / 10 for rows in toy.batches.sampler.epoch(0)]
    for update in ([0, 1, 2], [3]):
        gradients = [2 * weight * np.mean(batches[i] ** 2) for i in update if i not in without]
        weight -= 0.1 * np.mean(gradients) if gradients else 0.0
    toy.train()
    assert toy.net.weight.item() == pytest.approx(weight, rel=1e-12)


def test_the_log_has_means_over_batches_with_a_loss_and_none_where_there_is_none(tmp_path: Path):
    toy = Skipping({(0, 0), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)})
    losses, plain = [], toy.step

    def step(batch):
        values = plain(batch)
        losses.extend([values["loss"].item()] if "loss" in values else [])
        return values

    toy.step = step
    log = EpochLog(tmp_path / "log.jsonl", "toy")
    history = toy.train(log=log)
    assert history[0]["loss"] == pytest.approx(np.mean(losses[:2]))
    assert "loss" not in history[1]
    assert history[2]["loss"] == pytest.approx(np.mean(losses[2:]))
    assert [values["rows"] for values in history] == [pytest.approx(0.75)] * 3  # of all batches
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert ["loss" in line for line in lines] == [True, False, True]


def test_an_epoch_in_which_steps_say_nothing_has_timings_only():
    toy = Toy(replace(PLAIN, epochs=1))
    toy.step = lambda batch: {}
    assert list(toy.train()[0]) == ["learning_rate", *TIMINGS]
    assert toy.net.weight.item() == 1


def test_a_loss_that_is_not_finite_is_found_among_batches_without_one():
    toy = Skipping({(0, 0), (0, 2)}, replace(PLAIN, accumulate=4))
    plain = toy.step

    def step(batch):
        values = plain(batch)
        return {name: value * math.nan for name, value in values.items()}

    toy.step = step
    with pytest.raises(NumericError, match="epoch 0, batch 1: the loss is nan"):
        toy.train()


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stop", [(0, 2), (1, 1), (1, 2), (1, 3), (2, 0)])
def test_skipping_goes_on_with_the_same_bits_wherever_it_was_interrupted(
    tmp_path: Path, accumulate, stop
):
    settings = replace(ADAM, accumulate=accumulate, checkpoint_minutes=1e-9)
    without = {(0, 0), (0, 1), (1, 1), (1, 2), (2, 3)}
    unbroken, begun, toy = (Skipping(without, settings) for _ in range(3))
    expected = unbroken.train()
    plain = begun.step

    def step(batch):
        if (batch.epoch, batch.step) == stop:
            raise KeyboardInterrupt
        return plain(batch)

    begun.step = step
    with pytest.raises(KeyboardInterrupt):
        begun.train(folder=tmp_path)
    history = toy.train(folder=tmp_path)
    assert toy.seen[0] == (stop[0], stop[1] // accumulate * accumulate)  # no update is redone
    assert everything(toy) == everything(unbroken)
    assert [without_timings(v) for v in history] == [without_timings(v) for v in expected]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_stops_with_where_and_what_to_try(tmp_path: Path, precision):
    toy = Toy(replace(PLAIN, precision=precision))
    plain = toy.step

    def step(batch):
        values = plain(batch)
        if (batch.epoch, batch.step) == (1, 2):
            values = {"loss": values["loss"] * math.nan, "part": torch.tensor(math.inf), **values}
            values["loss"] = values["loss"] * math.nan
        return values

    runtime = Runtime.start(precision=precision)
    log = EpochLog(tmp_path / "log.jsonl", "toy")
    with pytest.raises(NumericError) as error:
        train(
            step, toy.batches, toy.optimizers, toy.settings, runtime=runtime,
            state={"net": toy.net}, folder=tmp_path, log=log,
        )  # fmt: skip
    asked = "precision=float32 in place of bfloat16; " if precision == "bfloat16" else ""
    assert str(error.value) == (
        "epoch 1, batch 2: the loss is nan (part as well); expected a finite number. Try a lower "
        f"learning rate (learning_rate.peak is 0.1); {asked}or look at the images of that batch."
    )
    assert toy.seen[-1] == (1, 2)  # at once
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert bool(saved["kept"]["state.net"]["weight"].isfinite().all())
    assert len(log.path.read_text().splitlines()) == 1


def test_where_looking_costs_a_wait_losses_are_looked_at_in_blocks(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("labelsieve.loop.train._BLOCK", 3)
    monkeypatch.setattr("labelsieve.loop.train._Losses.__init__", blockwise(3))
    toy = Toy(replace(PLAIN, checkpoint_minutes=1e-9))
    plain = toy.step

    def step(batch):
        values = plain(batch)
        bad = (batch.epoch, batch.step) == (1, 1)
        return {**values, "loss": values["loss"] / (0.0 if bad else 1.0)}

    toy.step = step
    with pytest.raises(NumericError, match="epoch 1, batch 1: the loss is (inf|nan)"):
        toy.train(folder=tmp_path)
    assert toy.seen[-1] == (1, 2)  # the third update of the epoch: the first look
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert bool(saved["kept"]["state.net"]["weight"].isfinite().all())


def blockwise(block):
    from labelsieve.loop.train import _Losses

    plain = _Losses.__init__

    def made(self, settings, runtime):
        plain(self, settings, runtime)
        self._block = block

    return made


def test_no_batch_is_refused():
    toy = Toy()
    toy.batches.sampler = shuffled(16, 4, seed=0)
    toy.batches = type("None", (), {"__len__": lambda s: 0, "batch_size": 4, "waited": 0.0})()
    with pytest.raises(ConfigError, match="there is no batch to train on: fewer images than batch"):
        toy.train()


def test_a_runtime_of_another_precision_is_refused():
    toy = Toy(replace(PLAIN, precision="bfloat16"))
    with pytest.raises(ConfigError, match="precision is bfloat16 in the settings and float32 in"):
        toy.train()


# Checkpoints


def begun(folder, settings=PLAIN):
    """A training that was interrupted at batch 2 of epoch 1, with a checkpoint of batch 1."""
    toy = Toy(replace(settings, checkpoint_minutes=1e-9))
    plain = toy.step

    def step(batch):
        if (batch.epoch, batch.step) == (1, 2):
            raise KeyboardInterrupt
        return plain(batch)

    toy.step = step
    with pytest.raises(KeyboardInterrupt):
        toy.train(folder=folder)
    return toy


def test_an_interrupted_training_goes_on_within_its_epoch(tmp_path: Path):
    begun(tmp_path)
    toy, unbroken = Toy(), Toy()
    history = toy.train(folder=tmp_path)
    assert toy.seen == [(1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]
    expected = unbroken.train()
    assert toy.net.weight.item() == unbroken.net.weight.item()
    assert [without_timings(v) for v in history] == [without_timings(v) for v in expected]


def without_timings(values):
    return {name: value for name, value in values.items() if name not in TIMINGS}


def test_how_often_it_is_saved_is_no_setting_of_the_result(tmp_path: Path):
    begun(tmp_path)
    Toy(replace(PLAIN, checkpoint_minutes=5.0)).train(folder=tmp_path)


def test_other_settings_are_refused(tmp_path: Path):
    begun(tmp_path)
    other = replace(PLAIN, learning_rate=LearningRate(peak=0.2, shape="constant"), epochs=4)
    with pytest.raises(RunError) as error:
        Toy(other).train(folder=tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'state.pt'}: this training was begun with other settings: epochs, "
        "learning_rate.peak changed (epochs was 3 and is 4). Give the settings it was begun with, "
        "or start again in another folder."
    )


def test_another_number_of_images_is_refused(tmp_path: Path):
    begun(tmp_path)
    with pytest.raises(RunError, match=r"n_batches changed \(n_batches was 4 and is 5\)"):
        Toy(n=20).train(folder=tmp_path)


def test_another_network_is_refused(tmp_path: Path):
    begun(tmp_path)
    toy = Toy()
    toy.net = nn.Linear(2, 1)
    with pytest.raises(RunError, match="what was saved of 'state.net' does not fit: .*size misma"):
        toy.train(folder=tmp_path)


def test_a_thing_that_was_not_saved_is_refused(tmp_path: Path):
    begun(tmp_path)
    toy = Toy()
    with pytest.raises(RunError, match="what was saved of 'state.bank' does not fit"):
        toy.train(folder=tmp_path, state={"net": toy.net, "bank": torch.zeros(3)})


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path, content):
    path = tmp_path / "state.pt"
    if content is None:
        torch.save([1, 2], path)
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match="cannot be read as a checkpoint: (?s:.*)Remove it to train"):
        Toy().train(folder=tmp_path)


def test_a_checkpoint_that_could_run_code_is_not_opened(tmp_path: Path):
    torch.save({"settings": {}, "kept": Path}, tmp_path / "state.pt")
    with pytest.raises(RunError, match="cannot be read as a checkpoint"):
        Toy().train(folder=tmp_path)


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path: Path, monkeypatch):
    begun(tmp_path)
    before = (tmp_path / "state.pt").read_bytes()

    def save(value, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RunError, match=r"state.pt: cannot be written: No space left .* Free some"):
        Toy().train(folder=tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_while_torch_writes_is_told(tmp_path: Path):
    (tmp_path / ".partial-state.pt").symlink_to("/dev/full")
    with pytest.raises(RunError, match="state.pt: cannot be written: No space left on device"):
        Toy().train(folder=tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written: .*There is a file where a folder is"):
        Toy().train(folder=tmp_path / "file" / "checkpoint")


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path):
    log = EpochLog(tmp_path / "none" / "log.jsonl", "toy")
    with pytest.raises(RunError, match="log.jsonl: cannot be written: .*Make the folder"):
        Toy().train(log=log)


def test_everything_kept_is_restored(tmp_path: Path):
    def things():
        return {
            "net": nn.BatchNorm1d(2), "tensor": torch.arange(3), "torch": torch.Generator(),
            "numpy": np.random.default_rng(1), "odd": np.random.Generator(np.random.MT19937(2)),
        }  # fmt: skip

    runtime = Runtime.start()
    saved = things()
    saved["net"](torch.randn(4, 2))
    saved["tensor"].mul_(5)
    saved["torch"].manual_seed(9)
    for name in "numpy", "odd":
        saved[name].random(3)
    Checkpoint(tmp_path, saved, {}, runtime).save()
    expected = {"torch": torch.rand(2, generator=saved["torch"]),
                **{name: saved[name].random(3) for name in ("numpy", "odd")}}  # fmt: skip
    found = things()
    assert Checkpoint(tmp_path, found, {}, runtime).load()
    assert torch.equal(found["net"].running_mean, saved["net"].running_mean)
    assert found["tensor"].tolist() == [0, 5, 10]
    assert torch.equal(torch.rand(2, generator=found["torch"]), expected["torch"])
    for name in "numpy", "odd":
        assert found[name].random(3).tolist() == expected[name].tolist()


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path):
    runtime = Runtime.start()
    Checkpoint(tmp_path, {"a": torch.zeros(1)}, {}, runtime).save()
    with pytest.raises(RunError, match=r"saved of 'a' does not fit: shape \(1,\), expected \(3,\)"):
        Checkpoint(tmp_path, {"a": torch.zeros(3)}, {}, runtime).load()


def test_epochs_shorter_than_a_save_are_not_all_saved(tmp_path: Path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {}, {}, Runtime.start())
    clock = [100.0]
    monkeypatch.setattr("labelsieve.loop.checkpoints.time.monotonic", lambda: clock[0])
    checkpoint._saved_at, checkpoint._cost = 100.0, 0.5  # it took half a second
    for seconds, ended in ((9.0, False), (11.0, True)):
        clock[0] = 100 + seconds
        assert checkpoint.due(10, epoch_ended=True) == ended
        assert not checkpoint.due(10)
    clock[0] = 701.0
    assert checkpoint.due(10)
    assert not Checkpoint(None, {}, {}, Runtime.start()).due(1e-9)


@pytest.mark.gpu
def test_no_update_waits_for_the_device():
    settings = replace(PLAIN, precision="bfloat16", largest_gradient=1.0)
    runtime = Runtime.start("cuda", "bfloat16")
    net = runtime.prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    pixels = np.zeros((4 * 40, 3, 8, 8), np.uint8)  # fewer batches than losses looked at at once
    batches = Batches(resident(pixels), shuffled(len(pixels), 4, seed=0), device="cuda")

    def step(batch):
        loss = net(batch.images / 255).square().mean()
        # from the second batch of an epoch to the one before the last, all of the loop is between
        torch.cuda.set_sync_debug_mode("error" if 1 <= batch.step < 38 else "default")
        return {"loss": loss, "half": loss / 2}

    optimizers = make_optimizers(settings.optimizer, [net])
    history = train(step, batches, optimizers, settings, runtime=runtime, state={"net": net})
    assert len(history) == 3


# The log


def test_only_lines_of_the_phase_from_the_epoch_on_are_dropped(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    kept = ['{"stage": "decode"}', '{"phase": "a", "epoch": 5}', '{"phase": "b", "epoch": 0}', "no"]
    path.write_text("\n".join([*kept, '{"phase": "b", "epoch": 1}', '{"phase": "b", "ep']))
    EpochLog(path, "b").restart(1)
    assert path.read_text().splitlines() == kept


def test_a_value_that_is_no_number_is_null_in_the_log(tmp_path: Path):
    log = EpochLog(tmp_path / "log.jsonl", "b")
    log.write(0, {"share": math.nan, "loss": 1.0})
    line = '{"phase": "b", "epoch": 0, "share": null, "loss": 1.0}\n'
    assert log.path.read_text() == line


def test_tensorboard_gets_the_same_numbers(tmp_path: Path):
    log = EpochLog(tmp_path / "log.jsonl", "toy", tensorboard=tmp_path / "events")
    history = Toy().train(log=log)
    log.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "events" / "toy"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("toy/loss")]
    assert found == [(i, pytest.approx(values["loss"])) for i, values in enumerate(history)]


def test_tensorboard_that_is_not_installed_says_how(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"event files for TensorBoard.*"):
        EpochLog(tmp_path / "log.jsonl", "toy", tensorboard=tmp_path)


# Several processes


def trained(precision="float32", stop=None, without=()):
    """Weights, statistics and history after a training with batch norm, accumulation, clipping."""
    settings = Training(
        epochs=2, batch_size=8, learning_rate=LearningRate(peak=0.3), accumulate=2,
        optimizer=Optimizer("sgd"), largest_gradient=0.5, precision=precision,
    )  # fmt: skip
    runtime = Runtime.start(precision=precision)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4),
    ).double()  # fmt: skip
    net = runtime.prepare(net).train()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 6, 6), dtype=np.uint8)
    batches = Batches(
        resident(pixels), shuffled(40, 8, seed=0), rank=runtime.rank,
        n_processes=runtime.n_processes,
    )  # fmt: skip

    def step(batch):
        rows = runtime.gather(normalize(net(batch.images.double() / 255 - 0.5), dim=1))
        labels = runtime.gather_detached(batch.rows) % 4
        loss = cross_entropy(rows @ rows.T / 0.5, torch.arange(len(rows)).roll(1))
        loss = loss + cross_entropy(rows, labels)
        if (batch.epoch, batch.step, runtime.rank) == stop:
            loss = loss * math.nan
        values = {"loss": loss, "own": batch.rows.double().mean()}
        if batch.step in without:
            del values["loss"]
        return values

    optimizers = make_optimizers(settings.optimizer, [net])
    history = train(step, batches, optimizers, settings, runtime=runtime, state={"net": net})
    return bare(net).state_dict(), [without_timings(values) for values in history]


def test_two_processes_end_with_the_weights_and_log_of_one():
    weights, history = trained()
    start = nn.Linear(8, 4).weight  # of the same distribution: weights have moved
    assert not torch.allclose(weights["8.weight"], start.double())
    for found, theirs in together(trained):
        for name, value in weights.items():
            assert torch.allclose(found[name], value, rtol=1e-9, atol=1e-9), name
        for ours, values in zip(history, theirs, strict=True):
            assert values == pytest.approx(ours, rel=1e-9)


@pytest.mark.parametrize("without", [(0,), (1,), (0, 1), (3,), (4,), (1, 2, 4)])
def test_two_processes_skip_what_one_does(without):
    """Five batches an epoch, in updates of two, two and one; a last one has all gradients sent."""
    weights, history = trained(without=without)
    assert not torch.equal(weights["8.weight"], trained()[0]["8.weight"])
    both = together(trained, "float32", None, without)
    for found, theirs in both:
        for name, value in weights.items():
            assert torch.allclose(found[name], value, rtol=1e-9, atol=1e-9), name
        for ours, values in zip(history, theirs, strict=True):
            assert values == pytest.approx(ours, rel=1e-9)
    for name, value in both[0][0].items():
        assert torch.equal(both[1][0][name], value), name


def stopped(stop):
    try:
        trained(stop=stop)
    except NumericError as error:
        return str(error)
    return "trained"


def test_a_loss_that_is_not_finite_on_one_process_stops_both():
    first, second = together(stopped, (1, 3, 1))
    assert first == "the loss is not finite on another process, in epoch 1."
    assert second.startswith("epoch 1, batch 3: the loss is nan")


def resumed_together(folder):
    """Save by two processes, load by two; and what is said where only one sees the file."""
    runtime = Runtime.start()
    kept = {"a": torch.arange(3)}
    Checkpoint(Path(folder), kept, {}, runtime).save()
    runtime.barrier()
    found = {"a": torch.zeros(3)}
    assert Checkpoint(Path(folder), found, {}, runtime).load()
    own = Path(folder) if runtime.is_main else Path(folder) / "elsewhere"
    try:
        Checkpoint(own, found, {}, runtime).load()
    except RunError as error:
        return found["a"].tolist(), str(error)
    return None


def test_a_checkpoint_is_for_all_processes(tmp_path: Path):
    for found, message in together(resumed_together, str(tmp_path)):
        assert found == [0, 1, 2]
        assert "only some of the processes see this file. Put the run's folder on" in message


# Killed


def child(function, *arguments):
    """A process of its own, forked from one that has imported everything: many can be killed."""
    server = multiprocessing.get_context("forkserver")
    needed = ["train", "data.batches", "features.bank"]  # all that killed_training imports
    slow = "torch._dynamo"  # imported by the first optimizer
    server.set_forkserver_preload([*(f"labelsieve.{name}" for name in needed), slow])
    process = server.Process(target=function, args=arguments)
    process.start()
    return process


def assert_same_result(folder, expected):
    ours, theirs = (
        torch.load(path / "result.pt", weights_only=True) for path in (folder, expected)
    )
    for name in "net", "average", "bank":
        assert ours[name].keys() == theirs[name].keys()
        for key, value in theirs[name].items():
            assert torch.equal(ours[name][key], value), f"{name}: {key}"
    for name in "threshold", "noise", "dropped":
        assert torch.equal(ours[name], theirs[name]), name
    assert ours["drawn"] == theirs["drawn"]
    logs = [
        [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (folder, expected)
    ]
    for values in (ours["history"], logs[0]), (theirs["history"], logs[1]):
        assert len(values[0]) == len(values[1]) == killed_training.EPOCHS
    ours, theirs = ([without_timings(v) for v in each["history"]] for each in (ours, theirs))
    assert ours == theirs
    assert [without_timings(v) for v in logs[0]] == [without_timings(v) for v in logs[1]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    process = child(killed_training.run, folder)
    process.join()
    assert process.exitcode == 0
    begun = time.monotonic()
    other = tmp_path_factory.mktemp("timed")
    process = child(killed_training.run, other)
    process.join()
    return folder, time.monotonic() - begun


def killed_until_done(folder, seconds, draws):
    """Kill a training at random moments until it gets to its end; how often it was killed."""
    folder.mkdir()
    for n_kills in range(100):
        process = child(killed_training.run, folder)
        # longer from time to time, so that it ends at last on however slow a machine
        process.join(draws.uniform(0.1, 0.5) * seconds * (1 + n_kills / 20))
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == 0:
            return n_kills
        assert process.exitcode == -signal.SIGKILL
    raise AssertionError("it never ended")


@pytest.mark.parametrize("seed", range(5))
def test_a_training_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path, unbroken, seed):
    expected, seconds = unbroken
    draws = random.Random(seed)
    for attempt in range(8):
        folder = tmp_path / str(attempt)
        n_kills = killed_until_done(folder, seconds / 2**attempt, draws)
        assert_same_result(folder, expected)
        starts = (folder / "starts.txt").read_text().split("\n")[:-1]
        if n_kills >= 2 and any(not start.endswith(" 0") for start in starts):  # within an epoch
            return
    raise AssertionError("it was always too fast to be killed")


@pytest.mark.parametrize("n_saves", [0, 1, 6, 7, 8])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, unbroken, n_saves
):
    process = child(killed_training.run_until_save, tmp_path, n_saves)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    checkpoint = tmp_path / "checkpoint"
    assert (checkpoint / ".partial-state.pt").stat().st_size == 1000
    assert (checkpoint / "state.pt").exists() == (n_saves > 0)
    process = child(killed_training.run, tmp_path)
    process.join()
    starts = (tmp_path / "starts.txt").read_text().split("\n")[:-1]
    # saved after each update of two batches, six in an epoch of eleven, and at its end
    updates = {0: "0 0", 1: "0 2", 6: "1 0", 7: "1 0", 8: "1 2"}
    assert starts == ["0 0", updates[n_saves]]
    assert_same_result(tmp_path, unbroken[0])
    assert [path.name for path in checkpoint.iterdir()] == ["state.pt"]
