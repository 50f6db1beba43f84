"""Losses for noisy labels: against slow twins, at known points, and at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

import reference_sncf_training as slow
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.objectives import (
    guided_contrastive,
    interpolated_contrastive,
    n_pairs_mixed,
)
from labelsieve.methods.sncf.losses import (
    balance_penalty,
    elr_penalty,
    generalized_cross_entropy,
    linear_rampup,
    mixed_cross_entropy,
    negative_entropy,
    pseudo_loss,
    soft_cross_entropy,
    squared_difference,
    temporal_average,
)

shapes = {"n": st.integers(1, 6), "n_classes": st.integers(1, 7), "seed": st.integers(0, 10**6)}


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits_of(n: int, n_classes: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(n, n_classes, generator=drawn(seed), dtype=torch.float64)


def targets_of(n: int, n_classes: int, seed: int) -> torch.Tensor:
    return logits_of(n, n_classes, seed + 99).softmax(1)


def weights_of(n: int, seed: int) -> torch.Tensor:
    """Some of them 0."""
    return (torch.rand(n, generator=drawn(seed), dtype=torch.float64) * 2 - 0.5).clamp(min=0)


def order_of(n: int, seed: int) -> torch.Tensor:
    return torch.randperm(n, generator=drawn(seed))


def check(fast: torch.Tensor, expected: float | list[float]) -> None:
    torch.testing.assert_close(fast, torch.tensor(expected, dtype=fast.dtype))


def gradient(function, *inputs: torch.Tensor) -> torch.Tensor:
    """Of the sum of a function with respect to its first argument."""
    first = inputs[0].clone().requires_grad_()
    (found,) = torch.autograd.grad(function(first, *inputs[1:]).sum(), first)
    return found


# cross-entropy


@given(**shapes)
def test_soft_cross_entropy_is_minus_the_mean_log_probability(n, n_classes, seed):
    logits, targets = logits_of(n, n_classes, seed), targets_of(n, n_classes, seed)
    expected = [
        slow.cross_entropy(*rows) for rows in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    check(soft_cross_entropy(logits, targets), expected)


@given(**shapes)
def test_soft_cross_entropy_of_one_hot_targets_is_torchs(n, n_classes, seed):
    logits = logits_of(n, n_classes, seed)
    labels = torch.randint(0, n_classes, (n,), generator=drawn(seed))
    hard = torch.eye(n_classes, dtype=torch.float64)[labels]
    torch.testing.assert_close(
        soft_cross_entropy(logits, hard), cross_entropy(logits, labels, reduction="none")
    )


def test_targets_of_zeros_have_loss_and_gradient_0():
    logits = torch.tensor([[400.0, -400.0]])
    assert soft_cross_entropy(logits, torch.zeros(1, 2)).item() == 0
    assert gradient(soft_cross_entropy, logits, torch.zeros(1, 2)).abs().sum() == 0


@given(factor=st.floats(0, 1), weighted=st.booleans(), **shapes)
def test_mixed_cross_entropy_is_that_with_both_targets(n, n_classes, seed, factor, weighted):
    logits, targets = logits_of(n, n_classes, seed), targets_of(n, n_classes, seed)
    order, weights = order_of(n, seed), weights_of(n, seed) if weighted else None
    found = mixed_cross_entropy(logits, targets, order, factor, weights)
    expected = slow.mixed_cross_entropy(
        logits.tolist(), targets.tolist(), order.tolist(), factor,
        None if weights is None else weights.tolist(),
    )  # fmt: skip
    assert found.shape == ()
    check(found, expected)


@given(factor=st.floats(0, 1), constant=st.floats(0.1, 9), **shapes)
def test_equal_weights_change_nothing(n, n_classes, seed, factor, constant):
    logits, targets, order = (
        logits_of(n, n_classes, seed),
        targets_of(n, n_classes, seed),
        order_of(n, seed),
    )
    torch.testing.assert_close(
        mixed_cross_entropy(logits, targets, order, factor, torch.full((n,), constant)),
        mixed_cross_entropy(logits, targets, order, factor),
    )


def test_an_image_of_weight_0_is_as_if_it_were_not_there_where_nothing_is_mixed():
    logits, targets = logits_of(4, 3, 0), targets_of(4, 3, 0)
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    there = weights > 0
    check(
        mixed_cross_entropy(logits, targets, torch.arange(4), 1.0, weights),
        soft_cross_entropy(logits[there], targets[there]).mean().item(),
    )


def test_without_any_weight_loss_and_gradient_are_0():
    def loss(logits):
        return mixed_cross_entropy(
            logits, torch.eye(3), torch.tensor([1, 2, 0]), 0.8, torch.zeros(3)
        )

    logits = torch.randn(3, 3)
    assert loss(logits).item() == 0
    assert gradient(loss, logits).abs().sum() == 0
    assert balance_penalty(logits, weights=torch.zeros(3)).item() == 0
    grad = gradient(lambda z: balance_penalty(z, weights=torch.zeros(3)), logits)
    assert grad.abs().sum() == 0  # and no NaN


# losses for wrong labels


@given(q=st.floats(0.05, 1), **shapes)
def test_generalized_cross_entropy_is_equation_6(n, n_classes, seed, q):
    logits = logits_of(n, n_classes, seed)
    labels = torch.randint(0, n_classes, (n,), generator=drawn(seed))
    found = generalized_cross_entropy(logits, labels, q)
    check(found, slow.generalized_cross_entropy(logits.tolist(), labels.tolist(), q))


def test_generalized_cross_entropy_of_a_small_q_is_cross_entropy():
    logits, labels = logits_of(5, 4, 0), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(
        generalized_cross_entropy(logits, labels, 1e-7),
        cross_entropy(logits, labels, reduction="none"),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


@given(q=st.floats(0.2, 1), **shapes)
def test_the_gradient_of_generalized_cross_entropy_is_that_of_cross_entropy_times_p_to_the_q(
    n, n_classes, seed, q
):
    logits = logits_of(n, n_classes, seed)
    labels = torch.randint(0, n_classes, (n,), generator=drawn(seed))
    p = logits.softmax(1).gather(1, labels[:, None])
    found = gradient(lambda z: generalized_cross_entropy(z, labels, q), logits)
    plain = gradient(lambda z: cross_entropy(z, labels, reduction="none"), logits)
    torch.testing.assert_close(found, plain * p**q)


def test_a_wrong_label_pulls_without_limit_in_cross_entropy_and_not_here():
    logits, labels = torch.tensor([[400.0, 0.0]]), torch.tensor([1])
    assert generalized_cross_entropy(logits, labels).item() == pytest.approx(1 / 0.7)
    assert gradient(lambda z: generalized_cross_entropy(z, labels), logits).abs().max() < 1e-6


@given(**shapes)
def test_the_elr_penalty_is_the_log_of_one_minus_the_agreement(n, n_classes, seed):
    logits = logits_of(n, n_classes, seed, 1.0)
    averages = targets_of(n, n_classes, seed) * torch.rand(n, 1, generator=drawn(seed)).double()
    check(elr_penalty(logits, averages), slow.elr_penalty(logits.tolist(), averages.tolist()))


@given(**shapes)
def test_the_elr_penalty_pulls_toward_what_was_said_before(n, n_classes, seed):
    if n_classes == 1:
        return
    averages = torch.eye(n_classes, dtype=torch.float64)[torch.arange(n) % n_classes] * 0.9
    grad = gradient(elr_penalty, logits_of(n, n_classes, seed, 1.0), averages)
    assert (grad.gather(1, averages.argmax(1, keepdim=True)) < 0).all()


def test_the_elr_penalty_is_bounded_where_the_authors_is():
    sure = torch.tensor([[400.0, 0.0]])
    assert elr_penalty(sure, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(
        math.log(1e-4),
        abs=1e-3,  # 1 - 1e-4 is rounded in float32
    )
    one_class = torch.zeros(1, 1)
    assert elr_penalty(one_class, torch.ones(1, 1)).item() == pytest.approx(
        math.log(1e-4), abs=1e-3
    )
    assert elr_penalty(sure, torch.zeros(1, 2)).item() == 0  # nothing was said before
    averages = torch.tensor([[1.0, 0.0]], requires_grad=True)
    assert not elr_penalty(torch.zeros(1, 2), averages).requires_grad


def test_temporal_averages_are_a_geometric_sum():
    average = torch.zeros(1, 2)
    said = [torch.tensor([[p, 1 - p]]) for p in (0.9, 0.1, 0.5)]
    for p in said:
        average = temporal_average(average, p, keep=0.7)
    expected = 0.3 * (0.49 * said[0] + 0.7 * said[1] + said[2])
    torch.testing.assert_close(average, expected)
    assert not temporal_average(average, said[0].requires_grad_()).requires_grad


# penalties


@given(weighted=st.booleans(), uneven=st.booleans(), **shapes)
def test_the_balance_penalty_is_the_divergence_of_prior_and_mean(
    n, n_classes, seed, weighted, uneven
):
    logits = logits_of(n, n_classes, seed)
    weights = weights_of(n, seed) if weighted else None
    prior = torch.rand(n_classes, generator=drawn(seed)).double() + 0.1 if uneven else None
    found = balance_penalty(logits, prior, weights)
    expected = slow.balance_penalty(
        logits.tolist(),
        None if prior is None else prior.tolist(),
        None if weights is None else weights.tolist(),
    )
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert found.item() >= -1e-12


def test_the_balance_penalty_is_0_at_the_prior_and_finite_far_from_it():
    even = torch.tensor([[60.0, 0.0], [0.0, 60.0], [60.0, 0.0], [0.0, 60.0]])
    assert balance_penalty(even).item() == pytest.approx(0, abs=1e-6)
    assert balance_penalty(even[:3], torch.tensor([2.0, 1.0])).item() == pytest.approx(0, abs=1e-6)
    lost = torch.tensor([[400.0, 0.0]])
    assert balance_penalty(lost).item() == pytest.approx(200 - math.log(2))
    assert gradient(balance_penalty, lost)[0, 1] < -0.4  # it pulls where p is 0 in float32


def test_a_class_without_share_in_the_prior_takes_no_part():
    logits = torch.tensor([[50.0, 0.0, -400.0]])
    assert balance_penalty(logits, torch.tensor([1.0, 0.0, 0.0])).item() == pytest.approx(0)


def test_a_weight_of_0_leaves_a_row_out_of_the_balance():
    logits = logits_of(4, 3, 0)
    there = torch.tensor([1.0, 0.0, 1.0, 0.0])
    check(balance_penalty(logits, weights=there), balance_penalty(logits[there > 0]).item())
    grad = gradient(lambda z: balance_penalty(z, weights=there), logits)
    assert grad[there == 0].abs().max() < 1e-30


@given(**shapes)
def test_negative_entropy_is_between_minus_log_c_and_0(n, n_classes, seed):
    logits = logits_of(n, n_classes, seed)
    found = negative_entropy(logits)
    check(found, slow.negative_entropy(logits.tolist()))
    assert -math.log(n_classes) - 1e-9 <= found.item() <= 1e-9


@given(**shapes)
def test_the_squared_difference_is_bounded_by_2_over_c(n, n_classes, seed):
    logits, targets = logits_of(n, n_classes, seed, 30.0), targets_of(n, n_classes, seed)
    found = squared_difference(logits, targets)
    check(found, slow.squared_difference(logits.tolist(), targets.tolist()))
    assert (found <= 2 / n_classes).all()


def test_the_pseudo_loss_is_a_measure_without_gradient():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]], requires_grad=True)
    guess = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    found = pseudo_loss(logits, guess)
    assert not found.requires_grad
    assert found[0] < found[1]  # the guess that the prediction agrees with
    torch.testing.assert_close(found, soft_cross_entropy(logits, guess).detach())


def test_the_rampup_is_linear():
    assert [linear_rampup(epoch, 10, 16) for epoch in (0, 10, 18, 26, 90)] == [0, 0, 0.5, 1, 1]
    assert [linear_rampup(epoch, 3, 0) for epoch in (2.9, 3, 4)] == [0, 1, 1]


# all of them


EVERY = {
    "soft": lambda z: soft_cross_entropy(z, torch.full_like(z, 1 / z.shape[1])),
    "mixed": lambda z: mixed_cross_entropy(
        z, torch.full_like(z, 1 / z.shape[1]), torch.arange(len(z)).roll(1), 0.7, torch.ones(len(z))
    ),
    "generalized": lambda z: generalized_cross_entropy(z, torch.zeros(len(z)).long()),
    "elr": lambda z: elr_penalty(z, torch.full_like(z, 0.5 / z.shape[1])),
    "balance": balance_penalty,
    "entropy": negative_entropy,
    "squared": lambda z: squared_difference(z, torch.full_like(z, 1 / z.shape[1])),
}
each = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY.keys())


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_only_the_rounding_of_logits(loss, dtype):
    logits = logits_of(4, 4, 0).to(dtype)  # 1/4 is exact in both
    found = loss(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), loss(logits.double()), rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("value", [400.0, 3e4])
def test_losses_and_gradients_of_sure_logits_are_finite(loss, value):
    logits = value * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    assert loss(logits).isfinite().all()
    assert gradient(loss, logits).isfinite().all()


@each
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1)])
def test_one_row_and_one_class_are_fine(loss, shape):
    found = loss(torch.randn(shape))
    assert found.isfinite().all()
    if shape[1] == 1 and loss is not EVERY["elr"]:
        assert found.abs().max() == 0


@each
def test_a_nan_is_not_hidden(loss):
    logits = torch.zeros(2, 3)
    logits[1, 0] = torch.nan
    assert loss(logits).isnan().any()


@each
@given(seed=st.integers(0, 10**6), shift=st.floats(-50, 50))
def test_a_constant_added_to_all_logits_of_a_row_changes_nothing(loss, seed, shift):
    logits = logits_of(3, 4, seed)
    torch.testing.assert_close(loss(logits + shift), loss(logits))


def test_what_does_not_fit_is_refused():
    logits, order = torch.zeros(2, 3), torch.arange(2)
    with pytest.raises(DataError, match=r"targets are \(2, 2\); expected \(2, 3\)"):
        soft_cross_entropy(logits, torch.zeros(2, 2))
    with pytest.raises(DataError, match=r"logits are \(3,\); expected \(B, C\)"):
        negative_entropy(torch.zeros(3))
    with pytest.raises(DataError, match="no image in the batch"):
        balance_penalty(torch.zeros(0, 3))
    with pytest.raises(DataError, match="no image in the batch"):
        mixed_cross_entropy(torch.zeros(0, 3), torch.zeros(0, 3), torch.arange(0), 1.0)
    with pytest.raises(DataError, match=r"weights are \(3,\); expected \(2,\)"):
        mixed_cross_entropy(logits, logits, order, 0.5, torch.ones(3))
    with pytest.raises(ConfigError, match="factor is 1.5"):
        mixed_cross_entropy(logits, logits, order, 1.5)
    with pytest.raises(DataError, match=r"prior is \(2,\); expected \(3,\)"):
        balance_penalty(logits, torch.ones(2))
    with pytest.raises(DataError, match=r"labels are \(3,\); expected \(2,\)"):
        generalized_cross_entropy(logits, torch.zeros(3).long())
    with pytest.raises(ConfigError, match="q is 0; expected 0 < q <= 1.*loss=ce"):
        generalized_cross_entropy(logits, order, 0)
    with pytest.raises(ConfigError, match="keep is 1; expected 0 <= keep < 1"):
        temporal_average(logits, logits, 1)


# the contrast between groups and images


def unit(n: int, dim: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(n, dim, generator=drawn(seed), dtype=torch.float64), dim=1)


contrast = {
    "n": st.integers(1, 6), "dim": st.integers(1, 4), "factor": st.floats(0, 1),
    "temperature": st.floats(0.05, 3), "seed": st.integers(0, 10**6),
}  # fmt: skip


@given(**contrast)
def test_interpolated_contrast_is_that_of_the_rows_multiplied(n, dim, factor, temperature, seed):
    first, second = unit(n, dim, seed), unit(n, dim, seed + 1)
    groups = torch.randint(-1, 3, (n,), generator=drawn(seed))
    weights = torch.rand(n, generator=drawn(seed + 2), dtype=torch.float64)
    order = order_of(n, seed)
    found = interpolated_contrastive(first, second, groups, weights, order, factor, temperature)
    assert found.item() == pytest.approx(
        slow.interpolated_contrastive(
            *(each.tolist() for each in (first, second, groups, weights, order)),
            factor, temperature,
        ),
        rel=1e-9, abs=1e-9,
    )  # fmt: skip


@given(**contrast)
def test_interpolated_contrast_is_guided_where_groups_are_sure_and_n_pairs_where_none_is(
    n, dim, factor, temperature, seed
):
    first, second, order = unit(n, dim, seed), unit(n, dim, seed + 1), order_of(n, seed)
    groups = torch.randint(-1, 3, (n,), generator=drawn(seed))
    args = (order, factor, temperature)
    torch.testing.assert_close(
        interpolated_contrastive(first, second, groups, torch.ones(n), *args),
        guided_contrastive(first, second, groups, *args),
    )
    torch.testing.assert_close(
        interpolated_contrastive(first, second, groups, torch.zeros(n), *args),
        n_pairs_mixed(first, second, *args),
    )


def test_a_doubtful_image_is_no_positive_of_others():
    first, second, order = unit(3, 4, 0), unit(3, 4, 1), torch.arange(3)
    groups, weights = torch.tensor([0, 0, 0]), torch.tensor([1.0, 1.0, 0.0])
    alone = torch.tensor([0, 0, -1])
    torch.testing.assert_close(
        interpolated_contrastive(first, second, groups, weights, order, 1.0),
        guided_contrastive(first, second, alone, order, 1.0),
    )


@given(**contrast)
def test_interpolated_contrast_does_not_hang_on_the_order_of_the_batch(
    n, dim, factor, temperature, seed
):
    first, second = unit(n, dim, seed), unit(n, dim, seed + 1)
    groups = torch.randint(-1, 3, (n,), generator=drawn(seed))
    weights, order, other = (
        weights_of(n, seed).clamp(max=1),
        order_of(n, seed),
        order_of(n, seed + 5),
    )
    back = other.argsort()
    torch.testing.assert_close(
        interpolated_contrastive(
            first[other], second[other], groups[other], weights[other], back[order[other]],
            factor, temperature,
        ),
        interpolated_contrastive(first, second, groups, weights, order, factor, temperature),
    )  # fmt: skip


def test_interpolated_contrast_refuses_what_does_not_fit():
    rows = unit(2, 3, 0)
    with pytest.raises(DataError, match=r"groups are \(2,\) and weights \(3,\); expected \(2,\)"):
        interpolated_contrastive(
            rows, rows, torch.zeros(2).long(), torch.ones(3), torch.arange(2), 1.0
        )
