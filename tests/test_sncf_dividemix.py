"""Two networks that divide the labels for each other: the parts, and small trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import reference_sncf_training as slow
from labelsieve.data.sources import of_rows
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.rows import Rows
from labelsieve.features.shown import row_views
from labelsieve.features.twins import Twins
from labelsieve.features.weights import drawn_from
from labelsieve.loop.rates import LearningRate
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.methods.sncf.classify import train_classifier
from labelsieve.methods.sncf.dividemix import DivideMix, refined_or_guessed
from labelsieve.methods.sncf.plain_training import Plain
from made_noisy import QUICK, Noisy, accuracy_test, logs, noisy, trained, trained_on_rows, weights
from processes import together

SMALL = replace(
    QUICK,
    objective=DivideMix(warmup=0.25, rampup=0.2, unlabeled_weight=5),
    projection="none",
    training=replace(QUICK.training, epochs=8, batch_size=32),
)


def mislabeled() -> Noisy:
    """210 images, two of seven with a wrong label; 60 to test on."""
    return noisy(n=150, n_mislabeled=60, n_foreign=0, n_broken=0)


def division(folder: Path) -> torch.Tensor:
    """(2, N) that the last checkpoint holds."""
    kept = torch.load(folder / "train" / "state.pt", weights_only=True)["kept"]
    return kept["state.clean"]


# targets


@given(
    n=st.integers(1, 5), n_classes=st.integers(1, 5), k=st.integers(0, 1),
    threshold=st.floats(0.1, 0.9), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_right_labels_are_refined_by_the_own_network_and_others_guessed_by_both(
    n, n_classes, k, threshold, seed
):
    generator = torch.Generator().manual_seed(seed)
    said = torch.randn(2, 2, n, n_classes, generator=generator, dtype=torch.float64).softmax(-1)
    labels = torch.randint(-1, n_classes, (n,), generator=generator)
    clean = torch.rand(n, generator=generator, dtype=torch.float64).masked_fill(labels < 0, 0)
    found = refined_or_guessed(labels, clean, said, k, DivideMix(threshold=threshold))
    for i in range(n):
        w = clean[i].item()
        views = said[k, :, i] if w > threshold else said[:, :, i].flatten(0, 1)
        p = views.mean(dim=0).tolist()
        if w > threshold:
            p = [w * (c == labels[i]) + (1 - w) * p[c] for c in range(n_classes)]
        expected = torch.tensor(slow.sharpened_guess(p, 2.0), dtype=torch.float64)
        torch.testing.assert_close(found[i], expected)


def test_settings_that_make_no_sense_are_refused():
    for name, value, expected in (
        ("warmup", 1.0, "0 <= warmup < 1"), ("rampup", -0.1, "0 <= rampup < 1"),
        ("threshold", 0.0, "0 < threshold < 1"), ("power", 0.5, "1 or more"),
        ("alpha", 0.0, "above 0"), ("unlabeled_weight", -1.0, "0 or more"),
        ("balance_weight", float("nan"), "0 or more"), ("second", "other", "one of new, copy"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{name} is .*{expected}"):
            DivideMix(**{name: value})


# trainings


def test_two_networks_learn_the_classes_and_divide_right_labels_from_wrong_ones(tmp_path: Path):
    made = mislabeled()
    log, lines = logs(tmp_path / "log.jsonl")
    found = trained(made, SMALL, folder=tmp_path, log=log, test=accuracy_test(made))
    assert [line["phase"] for line in lines()] == ["warm-up"] * 2 + ["train"] * 6
    assert lines()[-1]["test_accuracy"] > 0.95
    assert isinstance(found.network, Twins)
    assert found.probabilities.shape == (210, 3)
    truth = made.truth[made.rows]
    assert (found.probabilities.argmax(1) == truth).mean() > 0.95  # 5 of 7 labels are right
    right = made.beliefs.labels[made.rows] == truth
    clean = division(tmp_path)
    for posterior in clean[:, made.rows].numpy():
        assert ((posterior > 0.5) == right).mean() > 0.9
    assert clean[:, made.test_rows].abs().sum() == 0  # nobody asked for them
    assert not torch.equal(*clean)


def test_both_networks_are_trained_and_differ():
    found = trained(mislabeled(), SMALL)
    first, second = (
        [parameter.detach() for parameter in network.parameters()]
        for network in (found.network.first, found.network.second)
    )
    assert not any(map(torch.equal, first, second))


BRIEF = replace(  # 6 batches of warm-up, then 6 an epoch
    SMALL, average=0.9, training=replace(SMALL.training, epochs=4, checkpoint_minutes=1e-9)
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory):
    """What comes of a training, and the division it ends with."""
    folder = tmp_path_factory.mktemp("whole")
    return trained(mislabeled(), BRIEF, folder=folder), division(folder)


@pytest.mark.parametrize("n_batches", [3, 6, 12, 15])
def test_an_interrupted_training_goes_on_to_the_same_bits(
    tmp_path: Path, n_batches: int, uninterrupted
):
    whole, divided = uninterrupted

    def stop(done: int, total: int) -> None:
        assert total == 24
        if done == n_batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(mislabeled(), BRIEF, folder=tmp_path, progress=stop)
    resumed = trained(mislabeled(), BRIEF, folder=tmp_path)
    assert torch.equal(weights(resumed), weights(whole))
    np.testing.assert_array_equal(resumed.probabilities, whole.probabilities)
    assert torch.equal(division(tmp_path), divided)


def test_another_seed_is_another_training_and_the_same_one_is_not():
    made, brief = mislabeled(), replace(SMALL, training=replace(SMALL.training, epochs=2))
    first, again, other = (weights(trained(made, brief, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def short(launched: bool = False) -> np.ndarray:
    """Three epochs, one of them of warm-up; a rate so low that rounding does not grow."""
    training = replace(SMALL.training, epochs=3, learning_rate=LearningRate(0.01, "constant"))
    runtime = Runtime.start() if launched else None
    return trained(mislabeled(), replace(SMALL, training=training), runtime=runtime).probabilities


def test_two_processes_do_what_one_does():
    alone, both = short(), together(short, True)
    np.testing.assert_array_equal(both[0], both[1])
    np.testing.assert_allclose(both[0], alone, atol=1e-3)


def test_images_without_label_are_guessed_and_never_right(tmp_path: Path):
    made = mislabeled()
    labels = made.beliefs.labels.copy()
    labels[made.rows[::3]] = -1
    blind = made._replace(beliefs=Beliefs.trusting(labels))
    found = trained(blind, SMALL, folder=tmp_path)
    assert division(tmp_path)[:, made.rows[::3]].abs().sum() == 0
    assert (found.probabilities[::3].argmax(1) == made.truth[made.rows[::3]]).mean() > 0.9
    nothing = made._replace(beliefs=Beliefs.trusting(np.full(len(labels), -1)))
    with pytest.raises(DataError, match="none of 210 images has a label"):
        trained(nothing, SMALL)


def test_what_a_person_decided_is_not_divided_anew(tmp_path: Path):
    made = mislabeled()
    kinds, certain = made.beliefs.kinds.copy(), np.zeros(len(made.beliefs), bool)
    wrong = made.rows[made.beliefs.verdict[made.rows] == 1]
    right, refuted, foreign = wrong[:9], wrong[9:18], wrong[18:27]  # whatever they are
    for kind, rows in enumerate((right, refuted, foreign)):
        kinds[rows] = np.eye(3)[kind]
        certain[rows] = True
    decided = made._replace(beliefs=replace(made.beliefs, kinds=kinds, certain=certain))
    trained(decided, SMALL, folder=tmp_path)
    clean = division(tmp_path)
    assert clean[:, right].min() == 1
    assert clean[:, refuted].max() == clean[:, foreign].max() == 0
    assert clean[:, wrong[27:]].mean() < 0.5


def test_one_epoch_is_all_division_and_one_more_has_a_warm_up(tmp_path: Path):
    made = mislabeled()
    for epochs, phases in ((1, ["train"]), (2, ["warm-up", "train"])):
        log, lines = logs(tmp_path / f"{epochs}.jsonl")
        settings = replace(SMALL, training=replace(SMALL.training, epochs=epochs))
        trained(made, settings, log=log)
        assert [line["phase"] for line in lines()] == phases


def test_rows_of_features_are_divided_too(tmp_path: Path):
    made = mislabeled()
    found = trained_on_rows(made, SMALL, folder=tmp_path)
    assert (found.probabilities.argmax(1) == made.truth[made.rows]).mean() > 0.95
    right = made.beliefs.labels == made.truth
    clean = division(tmp_path).numpy() > 0.5
    assert (clean[:, made.rows] == right[made.rows]).mean() > 0.9


def test_the_penalty_of_the_warm_up_makes_predictions_modest():
    made = mislabeled()
    sure = []
    for modesty in (0.0, 1.0):
        objective = replace(SMALL.objective, warmup=0.9, modesty=modesty)
        sure.append(trained_on_rows(made, replace(SMALL, objective=objective)).probabilities.max(1))
    assert sure[1].mean() < sure[0].mean() - 0.05


def test_with_half_of_the_labels_wrong_it_is_far_above_cross_entropy():
    """Digits, 8 x 8 pixels as rows; .956 and .558 when this was written."""
    digits, random = load_digits(), np.random.default_rng(0)
    rows, truth = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    order = random.permutation(len(truth))
    wrong = random.random(len(truth)) < 0.5
    labels = np.where(wrong, (truth + random.integers(1, 10, len(truth))) % 10, truth)
    training = replace(
        SMALL.training, epochs=40, batch_size=64, learning_rate=LearningRate(0.05, "cosine")
    )
    accuracy: list[float] = []
    for objective in (Plain(), DivideMix()):
        with drawn_from(0):
            network = Rows(64, n_hidden=256).fit(rows)

        def test(predict) -> dict[str, float]:
            right = predict(of_rows(rows), order[1200:]).argmax(1).numpy() == truth[order[1200:]]
            accuracy.append(float(right.mean()))
            return {}

        train_classifier(
            of_rows(rows), network, Beliefs.trusting(labels), 10,
            replace(SMALL, objective=objective, training=training, test_every=0),
            rows=order[:1200], views=row_views(0), test=test,
        )  # fmt: skip
    assert accuracy[1] > 0.9 > accuracy[0] + 0.2
