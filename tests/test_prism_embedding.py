"""Training an embedding on noisy labels: what a step does, what is kept, what stays the same."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import normalize

import reference_prism_losses as slow
from labelsieve.data.augment import Contrastive, Weak
from labelsieve.data.batches import Batch
from labelsieve.data.sources import of_rows, resident
from labelsieve.errors import ConfigError, DataError, NumericError
from labelsieve.features.bank import MemoryBank
from labelsieve.features.rows import Rows
from labelsieve.features.saved import load_network, save_network
from labelsieve.features.shown import Views, image_views, row_views
from labelsieve.features.weights import drawn_from
from labelsieve.loop.logs import TIMINGS, EpochLog
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.methods.prism import embedding as module
from labelsieve.methods.prism.embedder import Embedder, linear_head
from labelsieve.methods.prism.embedding import (
    Embed,
    Pairs,
    Proxies,
    TrainedEmbedding,
    adam,
    embed,
    new_embedder,
    train_embedding,
)
from labelsieve.methods.prism.filter import CleanFilter, Filter
from labelsieve.methods.prism.losses import SoftTriple
from labelsieve.methods.prism.objectives import (
    BatchObjective,
    PairObjective,
    objective_of,
    optimizers_of,
)
from labelsieve.methods.prism.steps import Tally, embedding_step
from made_colors import NORMALIZATION, SIZE, colors, states, tiny_network
from processes import together

N_CLASSES, N_EACH, WIDTH = 24, 15, 12
CPU = torch.device("cpu")
QUICK = Embed(
    filter=Filter(noise_rate=0.3, window=10), dim=8, images_per_class=4,
    updates=60, weak=Weak(size=SIZE, padding=1), crops=None,
    training=adam(epochs=3, peak=3e-2, batch_size=32),
)  # fmt: skip


class Made(NamedTuple):
    features: NDArray[np.float32]  # (N, WIDTH)
    labels: NDArray[np.int64]  # (N,) of which 30 % are wrong
    wrong: NDArray[np.bool_]
    rows: NDArray[np.int64]


@pytest.fixture(scope="module")
def made() -> Made:
    """Classes that differ in some directions, and much that does not matter in the others."""
    return make()


def make(seed=0) -> Made:
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(N_CLASSES), N_EACH))
    centers = random.normal(0, 1, (N_CLASSES, WIDTH))
    centers[:, WIDTH // 2 :] = 0
    spread = np.repeat([0.25, 0.7], WIDTH // 2)
    features = centers[truth] + random.normal(0, spread, (len(truth), WIDTH))
    wrong = random.random(len(truth)) < 0.3
    labels = np.where(wrong, (truth + random.integers(1, N_CLASSES, len(truth))) % N_CLASSES, truth)
    return Made(features.astype(np.float32), labels, wrong, np.arange(len(truth)))


def trained(made: Made, settings: Embed = QUICK, **more) -> TrainedEmbedding:
    given = {
        "source": of_rows(made.features), "network": Rows(WIDTH), "labels": made.labels,
        "n_classes": N_CLASSES, "rows": made.rows, "views": row_views(more.get("seed", 0), 0.2),
    }  # fmt: skip
    return train_embedding(settings=settings, **{**given, **more})


def with_training(settings: Embed, **changes) -> Embed:
    return replace(settings, training=replace(settings.training, **changes))


def weights(found: TrainedEmbedding) -> torch.Tensor:
    return states(found.embedder, *([found.filter] if found.filter is not None else []))


def lines_of(path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def separation(embeds, made: Made) -> dict[str, float]:
    """Share of images whose nearest neighbor had the same label before the noise."""
    values = embeds(of_rows(made.features), made.rows)
    similarity = values @ values.T
    np.fill_diagonal(similarity, -2)
    clean = np.flatnonzero(~made.wrong)
    nearest = clean[similarity[np.ix_(clean, clean)].argmax(axis=1)]
    return {"test_precision_at_1": float((made.labels[nearest] == made.labels[clean]).mean())}


# The embedder


def test_an_embedder_gives_unit_rows_in_float32_whatever_the_precision():
    embedder = new_embedder(tiny_network(), dim=6, seed=0).eval()
    images = torch.randn(5, 3, SIZE, SIZE)
    expected = normalize(nn.functional.linear(embedder.backbone(images), embedder.head[0].weight))
    torch.testing.assert_close(embedder(images), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = embedder(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5), rtol=0, atol=1e-6)
    assert embedder.n_features == 6


def test_the_first_weights_hang_on_the_seed_and_are_kaiming_by_fan_out():
    first, again, other = (new_embedder(Rows(400), dim=900, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.head[0].weight, again.head[0].weight)
    assert not torch.equal(first.head[0].weight, other.head[0].weight)
    assert first.head[0].weight.std().item() == pytest.approx((2 / 900) ** 0.5, rel=0.01)
    assert not first.head[0].bias.any()


def test_a_head_of_another_width_is_refused():
    with pytest.raises(ConfigError, match="takes 5 features and Rows gives 12"):
        Embedder(Rows(WIDTH), linear_head(5, 3))


def test_an_embedder_is_saved_by_its_parts(tmp_path):
    embedder = new_embedder(tiny_network(), dim=6, seed=0).eval()
    parts = nn.ModuleDict({"backbone": embedder.backbone, "head": embedder.head})
    save_network(tmp_path, parts, {"kind": "embedder"})
    loaded, about = load_network(tmp_path)
    again = Embedder(loaded["backbone"], loaded["head"])
    images = torch.randn(5, 3, SIZE, SIZE)
    assert torch.equal(again(images), embedder(images))
    assert about == {"kind": "embedder"}


# The step


def batches(n_batches=7, batch_size=10, n_images=18, dim=3, n_classes=3, seed=0):
    """Embeddings (N, dim) of all images at each step, and the rows of each batch."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, n_classes, n_images)
    values = random.normal(1, 1, (n_batches, n_images, dim))
    values /= np.linalg.norm(values, axis=2, keepdims=True)
    rows = random.integers(0, n_images, (n_batches, batch_size))  # some are twice in a batch
    return values, labels, rows


def losses_of(step, values, rows):
    found = []
    for i, (each, chosen) in enumerate(zip(values, rows, strict=True)):
        images = torch.from_numpy(each[chosen])
        found.append(step(Batch(images, torch.from_numpy(chosen), 0, i)))
    return found


def step_of(labels, objective, sieve, first=0):
    return embedding_step(
        nn.Identity(), lambda images, *_: images, torch.from_numpy(labels), objective, sieve,
        Tally(len(labels), first), runtime=Runtime(CPU, "float32"), n_batches=7,
    )  # fmt: skip


@pytest.mark.parametrize("over", ["sum", "mean"])
def test_without_a_filter_the_batch_is_in_the_memory_before_it_is_compared(over):
    values, labels, rows = batches()
    settings = Pairs(margin=0.3, over=over, memory_weight=0.7)
    memory = MemoryBank(25, 3, dtype=torch.float64)
    found = losses_of(step_of(labels, PairObjective(settings, memory), None), values, rows)
    expected = slow.mcl_losses(
        [(chosen.tolist(), each[chosen].tolist(), labels[chosen].tolist())
         for each, chosen in zip(values, rows, strict=True)],
        25, 0.7, 0.3, over,
    )  # fmt: skip
    assert [each["loss"].item() for each in found] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("over", ["sum", "mean"])
def test_with_a_filter_what_is_kept_is_compared_with_the_batches_before_it(over):
    values, labels, rows = batches()
    sieve, judge = (CleanFilter(3, 3, 25, Filter(noise_rate=0.4, window=3)) for _ in range(2))
    settings = Pairs(margin=0.3, over=over, memory_weight=0.7)
    found = losses_of(step_of(labels, PairObjective(settings, sieve), sieve), values, rows)
    keeps, given = [], []
    for each, chosen in zip(values, rows, strict=True):
        features, own = torch.from_numpy(each[chosen]), torch.from_numpy(labels[chosen])
        keeps.append(judge(features, own))
        judge.update(features, own, keeps[-1])
        given.append((chosen.tolist(), features.tolist(), own.tolist()))
    expected = slow.prism_losses(given, 25, [keep.tolist() for keep in keeps], 0.7, 0.3, over)
    assert [each["loss"].item() for each in found] == pytest.approx(expected, rel=1e-5)
    shares = [keep.double().mean().item() for keep in keeps]
    assert [each["kept"].item() for each in found] == shares
    assert min(shares) < 0.8
    assert "threshold" not in found[0]  # nothing was known yet
    assert found[-1]["threshold"].item() == judge.last.threshold.item()
    assert found[-1]["noise_rate"].item() == 0.4


def test_without_a_memory_the_batch_is_compared_with_itself_alone():
    values, labels, rows = batches()
    (found,) = losses_of(step_of(labels, PairObjective(Pairs(), None), None), values[:1], rows[:1])
    expected = slow.prism_losses(
        [(rows[0].tolist(), values[0][rows[0]].tolist(), labels[rows[0]].tolist())],
        25, [[True] * 10], 1.0, 0.5, "sum",
    )  # fmt: skip
    assert found["loss"].item() == pytest.approx(expected[0], rel=1e-10)
    assert found.keys() == {"loss", "pairs"}


class Refusing(CleanFilter):
    """Keeps nothing of some batches."""

    refused = (2, 3)
    n_seen = 0

    def forward(self, features, labels):
        keep = super().forward(features, labels)
        if self.n_seen in self.refused:
            keep = torch.zeros_like(keep)
            self.last = self.last._replace(keep=keep)
        self.n_seen += 1
        return keep


def test_a_batch_of_which_nothing_is_kept_has_no_loss_and_is_not_remembered():
    values, labels, rows = batches()
    sieve = Refusing(3, 3, 100, Filter(noise_rate=0.0))
    found = losses_of(step_of(labels, PairObjective(Pairs(), sieve), sieve), values, rows)
    assert ["loss" in each for each in found] == [True, True, False, False, True, True, True]
    assert [each["kept"].item() for each in found] == [1, 1, 0, 0, 1, 1, 1]
    assert len(sieve.memory()[0]) == 5 * 10


def test_the_tally_counts_judgments_from_some_batch_on():
    values, labels, rows = batches()
    sieve = CleanFilter(3, 3, 25, Filter(noise_rate=0.4, window=3))
    judge = CleanFilter(3, 3, 25, Filter(noise_rate=0.4, window=3))
    tally = Tally(len(labels), first=3)
    step = embedding_step(
        nn.Identity(), lambda images, *_: images, torch.from_numpy(labels),
        PairObjective(Pairs(), sieve), sieve, tally,
        runtime=Runtime(CPU, "float32"), n_batches=7,
    )  # fmt: skip
    losses_of(step, values, rows)
    judged, kept = np.zeros(len(labels), int), np.zeros(len(labels), int)
    for i, (each, chosen) in enumerate(zip(values, rows, strict=True)):
        features, own = torch.from_numpy(each[chosen]), torch.from_numpy(labels[chosen])
        keep = judge(features, own)
        judge.update(features, own, keep)
        if i >= 3:
            np.add.at(judged, chosen[judge.last.scored.numpy()], 1)
            np.add.at(kept, chosen[(keep & judge.last.scored).numpy()], 1)
    assert judged.sum() > 30
    assert tally.judged.tolist() == judged.tolist()
    assert tally.kept.tolist() == kept.tolist()


def test_a_loss_of_the_batch_gets_what_is_kept_and_nothing_else():
    asked = []

    def loss(features, labels):
        asked.append((features, labels))
        return features.sum()

    values, labels, rows = batches()
    sieve = CleanFilter(3, 3, 25, Filter(noise_rate=0.4, window=3))
    found = losses_of(step_of(labels, BatchObjective(loss), sieve), values, rows)
    for each, chosen, values_then, (features, own) in zip(found, rows, values, asked, strict=True):
        assert len(features) == round(10 * each["kept"].item())
        both = [(*row, label) for row, label in zip(features.tolist(), own.tolist(), strict=True)]
        every = [(*values_then[row], labels[row]) for row in chosen]
        assert set(both) <= {tuple(map(float, row)) for row in every}


# Proxies


def test_proxies_move_at_their_own_rate_under_the_same_schedule():
    runtime = Runtime(CPU, "float32")
    network = new_embedder(Rows(4), 3, 0)
    objective = objective_of(Proxies(learning_rate=0.2), 5, 3, 100, None, 0, runtime)
    first, second = optimizers_of(objective, network, QUICK.training.optimizer, peak=0.05)
    proxies = bare(objective.parts["loss"]).loss.proxies
    assert proxies.shape == (5, 10, 3)
    assert second.param_groups[0]["lr_factor"] == pytest.approx(4.0)
    assert second.param_groups[0]["params"] == [proxies]
    assert all(proxies is not weight for g in first.param_groups for weight in g["params"])


@pytest.mark.parametrize(("n_classes", "n_centers"), [(499, 10), (500, 2)])
def test_many_classes_have_fewer_proxies_each(n_classes, n_centers):
    objective = objective_of(Proxies(), n_classes, 3, 9, None, 0, Runtime(CPU, "float32"))
    assert bare(objective.parts["loss"]).loss.proxies.shape == (n_classes, n_centers, 3)


def test_a_given_loss_with_weights_is_trained_with_the_network(made):
    with drawn_from(5):
        loss = SoftTriple(N_CLASSES, 8, n_centers=2)
    before = loss.proxies.detach().clone()
    trained(made, replace(QUICK, updates=6), loss=loss)
    assert (loss.proxies != before).any(dim=2).all()


# Training


def test_wrong_labels_are_removed_and_images_of_a_class_come_together(made):
    found = trained(made)
    judged, kept = found.times_judged, found.times_kept
    removed = judged - kept
    assert judged.sum() > 0.9 * 30 * 32  # of 60 updates, the second half
    assert removed[made.wrong].sum() / removed.sum() > 0.85
    assert removed[made.wrong].sum() / judged[made.wrong].sum() > 0.95
    assert found.noise_rate == 0.3
    assert found.warnings == ()
    before = normalize(torch.from_numpy(made.features), dim=1).numpy()
    clean, runtime = row_views(0).clean, Runtime(CPU, "float32")
    values = embed(found.embedder, of_rows(made.features), made.rows, clean, runtime)
    now = separation(lambda *_: values, made)
    assert now["test_precision_at_1"] > separation(lambda *_: before, made)["test_precision_at_1"]


@pytest.mark.parametrize(
    "settings",
    [replace(QUICK, filter=None), replace(QUICK, filter=None, loss=Pairs(memory_weight=0)),
     replace(QUICK, loss=Proxies()), replace(QUICK, loss=Proxies(), filter=None)],
    ids=["unfiltered", "batch", "proxies", "unfiltered proxies"],
)  # fmt: skip
def test_other_losses_learn_as_well(made, settings):
    values: list[dict] = []

    def test(embeds):
        values.append(separation(embeds, made))
        return values[-1]

    found = trained(made, with_training(settings, epochs=6), test=test)
    assert values[-1]["test_precision_at_1"] > values[0]["test_precision_at_1"] + 0.05 > 0.4
    assert (found.filter is None) == (settings.filter is None) == (found.noise_rate is None)
    assert found.times_judged.any() == (settings.filter is not None)


def test_images_are_trained_on_as_rows_are():
    set_ = colors(n=90, n_valid=9)
    settings = with_training(replace(QUICK, updates=12, images_per_class=2), batch_size=18)
    settings = replace(settings, images_per_class=6)
    found = train_embedding(
        resident(set_.pixels), tiny_network(), set_.truth, 3, settings, rows=set_.rows,
        views=image_views(settings.weak, None, NORMALIZATION, 0),
    )  # fmt: skip
    clean = image_views(settings.weak, None, NORMALIZATION, 0).clean
    values = embed(
        found.embedder, resident(set_.pixels), set_.valid_rows, clean, Runtime(CPU, "float32")
    )
    assert values.shape == (9, 8)
    assert values.dtype == np.float32
    with torch.no_grad():
        expected = found.embedder(clean(torch.from_numpy(set_.pixels[set_.valid_rows])))
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-6)


def test_the_log_has_a_line_an_epoch_with_what_the_report_shows(made, tmp_path):
    log, told = EpochLog(tmp_path / "log.jsonl", "train"), []
    asked = []

    def test(embeds):
        asked.append(len(told))
        return separation(embeds, made)

    settings = replace(QUICK, test_every=2)
    trained(made, settings, log=log, test=test, progress=lambda *done: told.append(done))
    lines = lines_of(tmp_path / "log.jsonl")
    assert len(lines) == 3
    names = {"loss", "kept", "threshold", "noise_rate", "pairs", "learning_rate"}
    assert all(names <= line.keys() for line in lines)
    assert ["test_precision_at_1" in line for line in lines] == [False, True, True]
    assert asked == [40, 60]  # every second epoch, and the last
    assert told[-1] == (60, 60)


def test_an_epoch_without_updates_given_is_a_pass_over_the_images(made):
    told = []
    settings = replace(with_training(QUICK, epochs=2), updates=0)
    trained(made, settings, progress=lambda *done: told.append(done))
    per_pass = told[-1][1] // 2
    assert 0.7 * len(made.rows) / 32 <= per_pass <= 1.5 * len(made.rows) / 32


def test_each_pass_within_an_epoch_shows_an_image_differently(made):
    asked: list[tuple[int, tuple]] = []
    shown = row_views(0)

    def weak(values, rows, epoch, number):
        asked.append((epoch, tuple(rows.tolist())))
        return shown.weak(values, rows, epoch, number)

    trained(made, with_training(QUICK, epochs=2), views=Views(weak, None, shown.clean))
    assert [epoch for epoch, _ in asked] == list(range(60))  # of two epochs of four passes each
    assert len({rows for _, rows in asked}) == 60


def test_strong_views_are_shown_where_there_are_any(made):
    asked = []

    def strong(values, *_):
        asked.append(len(values))
        return values

    shown = row_views(0)
    trained(made, replace(QUICK, updates=3), views=Views(None, strong, shown.clean))
    assert asked == [32, 32, 32]


def test_images_without_a_label_are_not_learned_from(made):
    labels = made.labels.copy()
    labels[::3] = -1
    seen: set[int] = set()
    shown = row_views(0)

    def weak(values, rows, *_):
        seen.update(rows.tolist())
        return values

    rows = made.rows[:200]
    trained(made, labels=labels, rows=rows, views=Views(weak, None, shown.clean))
    assert seen == {row for row in rows.tolist() if labels[row] >= 0}


def test_what_was_given_stays_as_it_is(made):
    network = tiny_network()
    before, labels = states(network), made.labels.copy()
    set_ = colors(n=60, n_valid=6)
    settings = replace(QUICK, updates=3)
    train_embedding(
        resident(set_.pixels), network, set_.truth, 3, with_training(settings, batch_size=12),
        rows=set_.rows, views=image_views(settings.weak, None, NORMALIZATION, 0),
    )  # fmt: skip
    assert torch.equal(states(network), before)
    trained(made)
    assert np.array_equal(made.labels, labels)


def test_bfloat16_is_of_the_network_only(made):
    dtypes = set()

    class Asked(nn.Module):
        def forward(self, features, labels):
            dtypes.add((features.dtype, (features @ features.T).dtype))
            return (features @ features.T).mean()

    settings = with_training(replace(QUICK, updates=6), precision="bfloat16")
    found = trained(made, settings, network=Rows(WIDTH, 16), loss=Asked())
    assert dtypes == {(torch.float32, torch.float32)}
    assert found.embedder.head[0].weight.dtype == torch.float32
    for loss in (Pairs(), Proxies()):
        trained(made, replace(settings, loss=loss))


def test_a_network_that_gives_no_numbers_ends_the_training(made):
    features = np.full_like(made.features, np.nan)
    with pytest.raises(NumericError, match="epoch 0, batch 0: the loss is nan"):
        trained(made, source=of_rows(features))


def test_a_training_that_judged_nothing_says_so(made):
    settings = with_training(QUICK, epochs=1)
    found = trained(made, replace(settings, updates=2, filter=Filter(least_scored=1)))
    assert "No label was judged in the second half of the training" in found.warnings[0]


# Seeds, interruptions, processes


def test_the_seed_decides_everything(made):
    first, again, other = (trained(made, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


class Stopped(Exception):
    pass


def stop_at(n: int):
    def progress(done: int, total: int) -> None:
        if done == n:
            raise Stopped

    return progress


RESUMED = {
    "prism": QUICK,
    "auto": replace(QUICK, filter=Filter()),
    "unfiltered": replace(QUICK, filter=None),
    "proxies": replace(QUICK, loss=Proxies()),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_training_goes_on_after_an_interruption_as_if_there_had_been_none(made, tmp_path, name):
    settings = with_training(RESUMED[name], checkpoint_minutes=1e-9)
    log = EpochLog(tmp_path / "whole.jsonl", "train")
    whole = trained(made, settings, log=log)
    for at in (1, 25, 40, 59):
        folder, again = tmp_path / str(at), EpochLog(tmp_path / f"{at}.jsonl", "train")
        with pytest.raises(Stopped):
            trained(made, settings, folder=folder, log=again, progress=stop_at(at))
        resumed = trained(made, settings, folder=folder, log=again)
        assert torch.equal(weights(whole), weights(resumed))
        assert np.array_equal(whole.times_kept, resumed.times_kept)
        assert whole.noise_rate == resumed.noise_rate
        assert lines_of(tmp_path / "whole.jsonl") == lines_of(tmp_path / f"{at}.jsonl")


def steps_here(name: str) -> dict:
    """All weights and the state of the filter, after some updates."""
    made = make()
    module.CleanFilter = Refusing  # of two of the batches nothing is kept, on all processes
    Refusing.n_seen = 0
    settings = replace(RESUMED[name], updates=12)
    set_ = colors(n=120, n_valid=6, parts=tuple(range(3)))
    with drawn_from(0):
        network = Rows(WIDTH, 16)
    try:
        found = trained(made, settings, runtime=Runtime.start(), network=network)
        on_images = train_embedding(
            resident(set_.pixels), tiny_network(), set_.truth, 3,
            with_training(replace(settings, updates=6), batch_size=12),
            rows=set_.rows, views=image_views(settings.weak, None, NORMALIZATION, 0),
            runtime=Runtime.start(),
        )  # fmt: skip
    finally:
        module.CleanFilter = CleanFilter
    return {
        "weights": weights(found), "kept": found.times_kept, "images": states(on_images.embedder)
    }  # fmt: skip


@pytest.mark.parametrize("name", ["prism", "unfiltered", "proxies"])
def test_two_processes_learn_what_one_does(name):
    alone = steps_here(name)
    for found in together(steps_here, name):
        torch.testing.assert_close(found["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found["images"], alone["images"], rtol=2e-2, atol=2e-3)
        assert np.array_equal(found["kept"], alone["kept"])


# Settings


def test_the_defaults_are_the_published_constants():
    settings = Embed()
    assert (settings.classes_per_batch, settings.images_per_class, settings.dim) == (16, 4, 512)
    assert (settings.loss.margin, settings.loss.over, settings.loss.memory_weight) == (
        0.5,
        "sum",
        1,
    )
    assert (settings.updates, settings.filter.window) == (4000, 30)
    assert (settings.weak.size, settings.crops.size) == (224, 224)
    assert (settings.crops.smallest_crop, settings.crops.flip_rate) == (0.2, 0.5)
    assert (settings.crops.jitter_rate, settings.crops.gray_rate, settings.crops.blur_rate) == (
        0,
    ) * 3
    training = settings.training
    rates = [training.learning_rate.at(done) for done in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([3e-5, 1.5e-5, 0.0])
    assert (training.optimizer.name, training.optimizer.weight_decay) == ("adam", 5e-4)
    assert training.optimizer.decay_all
    proxies = Proxies()
    assert (proxies.scale, proxies.gamma, proxies.margin, proxies.learning_rate) == (
        20,
        0.1,
        0.01,
        0.1,
    )


@pytest.mark.parametrize(
    ("make_settings", "message"),
    [
        (lambda: Pairs(margin=1.0), "margin is 1.0; expected a cosine"),
        (lambda: Pairs(over="max"), "over is 'max'; expected one of sum, mean"),
        (lambda: Pairs(memory_weight=-1), "memory_weight is -1; expected 0 or more"),
        (lambda: Proxies(n_centers=-1), "n_centers is -1; expected 0 or more"),
        (lambda: Proxies(gamma=0.0), "gamma is 0.0; expected above 0"),
        (lambda: replace(QUICK, dim=0), "dim is 0; expected 1 or more"),
        (lambda: replace(QUICK, images_per_class=1), "images_per_class is 1; expected 2 or more"),
        (lambda: replace(QUICK, images_per_class=5),
         "batch_size is 32 and images_per_class 5; expected a multiple of that"),
        (lambda: replace(QUICK, images_per_class=32), "of 2 classes at least"),
        (lambda: replace(QUICK, updates=2),
         "updates is 2 and training.epochs 3; expected at least one update an epoch"),
        (lambda: replace(QUICK, crops=Contrastive(size=8)),
         "crops.size is 8 and weak.size 12; expected one size"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(make_settings, message):
    with pytest.raises(ConfigError, match=message):
        make_settings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(3, np.int64)}, r"labels of shape \(3,\) for 360 images"),
        ({"n_classes": 5}, "labels run up to 23; expected less than n_classes=5"),
        ({"rows": np.arange(0)}, "the images to learn from are of 0 classes; at least 2"),
        ({"labels": np.zeros(360, np.int64)}, "the images to learn from are of 1 class; at least"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(made, changes, message):
    with pytest.raises(DataError, match=message):
        trained(made, **changes)
