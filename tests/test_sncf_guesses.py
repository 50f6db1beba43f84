"""What images are trained toward: against slow twins, and at the edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference_sncf_training as slow
from labelsieve.errors import ConfigError, DataError
from labelsieve.methods.sncf.guesses import (
    label_guess,
    mean_guess,
    sharpened_guess,
    soft_targets,
    training_targets,
)

shapes = {"n": st.integers(1, 6), "n_classes": st.integers(1, 7), "seed": st.integers(0, 10**6)}


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits_of(n: int, n_classes: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, n_classes, generator=drawn(seed), dtype=torch.float64)


def given_labels(n: int, n_classes: int, seed: int) -> torch.Tensor:
    return torch.randint(-1, n_classes, (n,), generator=drawn(seed))


def close(fast: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(fast, torch.tensor(expected, dtype=fast.dtype))


# the guess


@given(power=st.sampled_from([1.0, 2.0, 3.5]), **shapes)
def test_a_label_guess_is_the_sharpened_mean_of_two_views(n, n_classes, seed, power):
    first, second = logits_of(n, n_classes, seed), logits_of(n, n_classes, seed + 1)
    close(
        label_guess(first, second, power), slow.label_guess(first.tolist(), second.tolist(), power)
    )


def test_a_label_guess_by_hand():
    # p1 = (3/4, 1/4), p2 = (1/4, 3/4) + half a step: mean (5/8, 3/8), squared 25 : 9
    first = torch.tensor([[0.75, 0.25]]).log()
    second = torch.tensor([[0.5, 0.5]]).log()
    close(label_guess(first, second), [[25 / 34, 9 / 34]])


@given(power=st.floats(1, 60), scale=st.sampled_from([0.01, 1.0, 100.0]), **shapes)
def test_a_guess_sums_to_one_and_is_surer_than_the_mean_with_the_same_first(
    n, n_classes, seed, power, scale
):
    p = mean_guess(
        logits_of(n, n_classes, seed, scale).float().softmax(1),
        logits_of(n, n_classes, seed + 1, scale).float().softmax(1),
    )
    guess = sharpened_guess(p, power)
    torch.testing.assert_close(guess.sum(1), torch.ones(n))
    for before, after in zip(p.tolist(), guess.tolist(), strict=True):
        assert slow.entropy(after) <= slow.entropy(before) + 1e-5
        assert before[after.index(max(after))] == max(before)


@given(**shapes)
def test_a_power_of_one_changes_nothing(n, n_classes, seed):
    p = logits_of(n, n_classes, seed).softmax(1)
    torch.testing.assert_close(sharpened_guess(p, 1.0), p)


def test_a_guess_has_no_gradient():
    logits = torch.randn(3, 4, requires_grad=True)
    assert not label_guess(logits, logits).requires_grad
    p = logits.softmax(1)
    assert not mean_guess(p, p).requires_grad
    assert not sharpened_guess(p).requires_grad
    targets = soft_targets(torch.zeros(3, dtype=torch.int64), torch.eye(3), p)
    assert not targets.targets.requires_grad
    assert not training_targets(torch.zeros(3).long(), torch.tensor([0, 1, 2]), p, 4).requires_grad


def test_a_high_power_of_many_classes_is_not_lost_in_float32():
    p = torch.full((1, 1000), 1e-3)
    p[0, 7] = 1.1e-3
    guess = sharpened_guess(p, power=100.0)  # 1e-300 each, without care
    assert guess[0].argmax() == 7
    assert guess.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_guess_of_half_precision_is_float32_and_close(dtype):
    first, second = logits_of(4, 5, 0).to(dtype), logits_of(4, 5, 1).to(dtype)
    found = label_guess(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), label_guess(first.double(), second.double()))


def test_a_guess_of_sure_logits_is_finite():
    logits = torch.tensor([[400.0, -400.0], [-400.0, 400.0]])
    close(label_guess(logits, logits), [[1.0, 0.0], [0.0, 1.0]])
    close(label_guess(logits, logits.flip(0)), [[0.5, 0.5], [0.5, 0.5]])


def test_nan_stays_in_its_row():
    logits = torch.zeros(2, 3)
    logits[0, 1] = torch.nan
    found = label_guess(logits, torch.zeros(2, 3))
    assert found[0].isnan().all()
    close(found[1:], [[1 / 3] * 3])


def test_one_class_and_no_image_are_fine():
    close(label_guess(torch.tensor([[-5.0]]), torch.tensor([[2.0]])), [[1.0]])
    assert label_guess(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)


def test_what_a_guess_cannot_be_made_of_is_said():
    with pytest.raises(ConfigError, match="power is 0.5; expected 1 or more"):
        sharpened_guess(torch.ones(1, 2), 0.5)
    with pytest.raises(ConfigError, match="power is nan"):
        sharpened_guess(torch.ones(1, 2), float("nan"))
    with pytest.raises(DataError, match=r"\(1, 2\) and \(2, 2\); expected one shape"):
        mean_guess(torch.ones(1, 2), torch.ones(2, 2))
    with pytest.raises(DataError, match=r"logits of first views is \(3,\)"):
        label_guess(torch.ones(3), torch.ones(3))


# targets


@given(**shapes)
def test_training_targets_are_label_guess_or_nothing(n, n_classes, seed):
    labels = given_labels(n, n_classes, seed)
    verdict = torch.randint(0, 3, (n,), generator=drawn(seed + 1))
    guess = logits_of(n, n_classes, seed + 2).softmax(1)
    found = training_targets(labels, verdict.to(torch.int8), guess, n_classes)
    close(found, slow.training_targets(labels.tolist(), verdict.tolist(), guess.tolist()))


def test_the_target_of_a_foreign_image_has_no_share_in_the_cross_entropy():
    guess = torch.full((2, 3), 1 / 3)
    logits = torch.randn(2, 3, requires_grad=True)
    targets = training_targets(torch.tensor([1, 1]), torch.tensor([0, 2]), guess, 3)
    (-(targets * logits.log_softmax(1)).sum()).backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0.1
    assert logits.grad[1].abs().sum() == 0


def test_a_clean_image_without_label_has_the_guess():
    guess = torch.tensor([[0.2, 0.8]])
    close(training_targets(torch.tensor([-1]), torch.tensor([0]), guess, 2), [[0.2, 0.8]])


@given(**shapes)
def test_soft_targets_mix_label_and_guess_by_how_likely_they_are(n, n_classes, seed):
    labels = given_labels(n, n_classes, seed)
    kinds = logits_of(n, 3, seed + 1).softmax(1)
    guess = logits_of(n, n_classes, seed + 2).softmax(1)
    targets, weights = soft_targets(labels, kinds, guess)
    expected, counts = slow.soft_targets(labels.tolist(), kinds.tolist(), guess.tolist())
    close(targets, expected)
    torch.testing.assert_close(weights, torch.tensor(counts, dtype=torch.float64))
    torch.testing.assert_close(targets.sum(1), torch.ones(n, dtype=torch.float64))


@given(**shapes)
def test_soft_targets_of_certain_kinds_are_training_targets(n, n_classes, seed):
    labels = given_labels(n, n_classes, seed)
    verdict = torch.randint(0, 3, (n,), generator=drawn(seed + 1))
    guess = logits_of(n, n_classes, seed + 2).softmax(1)
    targets, weights = soft_targets(labels, torch.eye(3)[verdict], guess)
    hard = training_targets(labels, verdict, guess, n_classes)
    torch.testing.assert_close(targets * weights[:, None], hard)
    assert weights.tolist() == (verdict != 2).double().tolist()


def test_an_image_that_is_surely_foreign_has_the_guess_with_weight_0():
    targets, weights = soft_targets(
        torch.tensor([0]), torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.3, 0.7]])
    )
    close(targets, [[0.3, 0.7]])
    assert weights.tolist() == [0.0]


def test_targets_of_things_that_do_not_fit_are_refused():
    guess, labels = torch.full((2, 3), 1 / 3), torch.zeros(2).long()
    with pytest.raises(DataError, match=r"the guess is \(2, 3\); expected \(2, 4\)"):
        training_targets(labels, labels, guess, 4)
    with pytest.raises(DataError, match=r"labels are \(3,\).*one row an image"):
        training_targets(torch.zeros(3).long(), labels, guess, 3)
    with pytest.raises(DataError, match=r"kinds are \(2, 2\); expected \(B, 3\)"):
        soft_targets(labels, torch.ones(2, 2), guess)
