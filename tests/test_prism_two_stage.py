"""The second stage: all labels scored by a trained embedding, and training anew on what is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from labelsieve.data.sources import of_rows
from labelsieve.errors import DataError
from labelsieve.features.rows import Rows
from labelsieve.features.shown import Views, row_views
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism import two_stage as module
from labelsieve.methods.prism.embedding import Embed, Pairs, TrainedEmbedding, adam, embed
from labelsieve.methods.prism.filter import Filter
from labelsieve.methods.prism.offline import Offline, score_offline
from labelsieve.methods.prism.two_stage import SecondStage, TwoStages, second_stage
from made_colors import states
from test_prism_embedding import N_CLASSES, QUICK, WIDTH, Made, make, separation, trained

SECOND = SecondStage(offline=Offline(noise_rate=0.3))
CPU = Runtime(torch.device("cpu"), "float32")


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module")
def first(made) -> TrainedEmbedding:
    return trained(made)


def second(made: Made, first: TrainedEmbedding, settings: Embed = QUICK, **more) -> TwoStages:
    given = {
        "source": of_rows(made.features), "network": Rows(WIDTH), "labels": made.labels,
        "n_classes": N_CLASSES, "rows": made.rows, "views": row_views(1000, 0.2), "second": SECOND,
    }  # fmt: skip
    return second_stage(first=first, settings=settings, **{**given, **more})


def test_what_is_kept_is_cleaner_and_is_learned_from_alone(made, first):
    before, seen, shown = states(first.embedder), set(), row_views(1000, 0.2)

    def weak(values, rows, epoch, number):
        seen.update(rows.tolist())
        return shown.weak(values, rows, epoch, number)

    found = second(made, first, views=Views(weak, None, shown.clean))
    assert made.wrong[found.kept].mean() < 0.05 < 0.25 < made.wrong.mean()
    assert len(found.kept) == pytest.approx(0.7 * len(made.rows), rel=0.05)
    assert seen == set(found.kept.tolist())
    assert found.trained.filter is None
    assert torch.equal(states(first.embedder), before)


def test_the_second_stage_retrieves_better_than_the_first(made, first):
    source, again = of_rows(made.features), second(made, first).trained

    def precision(of: TrainedEmbedding) -> float:
        values = embed(of.embedder, source, made.rows, lambda rows: rows, CPU)
        return separation(lambda *_: values, made)["test_precision_at_1"]

    assert precision(again) > precision(first)


def test_labels_are_scored_by_fresh_embeddings_of_the_rows_that_have_one(made, first):
    labels = made.labels.copy()
    labels[::4] = -1
    rows = made.rows[40:]
    found = second(made, first, labels=labels, rows=rows)
    assert found.rows.tolist() == [row for row in rows.tolist() if labels[row] >= 0]
    values = embed(first.embedder, of_rows(made.features), found.rows, lambda rows: rows, CPU)
    expected = score_offline(values, labels[found.rows], N_CLASSES, SECOND.offline)
    assert np.array_equal(found.scores.keep, expected.keep)
    assert np.array_equal(found.kept, found.rows[expected.keep])
    assert 0 < len(found.kept) < len(found.rows)


def test_training_begins_with_the_same_weights_and_another_loss_without_a_filter(
    made, first, monkeypatch
):
    asked = {}

    def train_embedding(*given, **more):
        asked.update(more, settings=given[4], network=given[1])
        return first

    monkeypatch.setattr(module, "train_embedding", train_embedding)
    network = Rows(WIDTH)
    second(made, first, network=network, seed=3)
    assert asked["network"] is network
    assert asked["seed"] == 3
    assert asked["settings"] == replace(QUICK, loss=Pairs(over="mean"), filter=None)


def test_a_set_of_which_too_little_is_kept_is_refused(made, first, monkeypatch):
    scores = score_offline(
        np.eye(WIDTH, dtype=np.float32)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]), 2, Offline()
    )

    def nothing(features, labels, n_classes, settings, *, seed):
        return scores._replace(keep=np.zeros(len(labels), bool))

    monkeypatch.setattr(module, "score_offline", nothing)
    with pytest.raises(DataError, match="of 360 images 0 seem rightly labeled, of fewer than 2"):
        second(made, first)


def test_defaults_are_an_estimated_rate_and_the_mean_over_pairs():
    settings = SecondStage()
    assert settings.offline.noise_rate == "auto"
    assert settings.loss == Pairs(over="mean")
    assert Embed(training=adam(epochs=40)).filter == Filter()
