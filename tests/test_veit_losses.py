"""Losses and targets of tags: the paper's numbers, and a second implementation by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array
from torch.nn.functional import binary_cross_entropy_with_logits

import reference_veit as slow
from labelsieve.errors import ConfigError
from labelsieve.features.tag_batch import tag_batch
from labelsieve.loop.optimizers import Optimizer, make_optimizers
from labelsieve.methods.veit.losses import (
    cleaning_loss,
    clip_straight_through,
    dense_cross_entropy,
    relevance_cross_entropy,
    relevance_probability,
    sparse_cross_entropy,
)
from labelsieve.methods.veit.stopping import average_precision, folds, held_out, stretched
from labelsieve.methods.veit.targets import frequencies, only_rows, overruled, pair_targets

shapes = st.tuples(st.integers(1, 5), st.integers(1, 6))
logits = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-20, 20)))


def tensor(*rows):
    return torch.tensor(rows)


def sparse(values):
    matrix = csr_array(np.asarray(values, np.float32))
    return tag_batch(matrix, np.arange(matrix.shape[0]))


def random_like(values, seed=0, low=0.0):
    return np.random.default_rng(seed).uniform(low, 1, values.shape)


# The losses


def test_the_worked_example_of_both_losses():
    y, r, v = tensor(1.0, 0, 1), tensor(-0.3, 0.2, 0.5), tensor(1.0, 0, 0)
    cleaned = (y + r).clamp(0, 1)
    assert cleaned.tolist() == pytest.approx([0.7, 0.2, 1.0])
    assert cleaning_loss(cleaned[None], v[None]).item() == pytest.approx(1.5)
    z = tensor([0.0, 1, -1])
    assert dense_cross_entropy(z, cleaned[None]).item() == pytest.approx(3.119671, abs=1e-6)
    assert sparse_cross_entropy(z, sparse([[1, 0, 0]])).item() == pytest.approx(2.319671, abs=1e-6)
    total = dense_cross_entropy(z, cleaned[None]) + dense_cross_entropy(z, v[None]) + 0.1 * 1.5
    assert total.item() == pytest.approx(5.589342, abs=2e-6)  # a sum of rounded parts


@given(logits)
def test_both_forms_of_the_cross_entropy_are_the_formula_and_have_its_gradient(values):
    q = random_like(values)
    q[q < 0.5] = 0
    expected = slow.cross_entropy(values.tolist(), q.astype(np.float32).tolist())
    z = torch.tensor(values, requires_grad=True)
    target = torch.tensor(q.astype(np.float32)).double()
    reference = binary_cross_entropy_with_logits(z, target, reduction="sum")
    (wanted,) = torch.autograd.grad(reference, z)
    dense, few = dense_cross_entropy(z, target), sparse_cross_entropy(z, sparse(q))
    for found in (dense, few):
        assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        (gradient,) = torch.autograd.grad(3 * found, z)
        assert torch.allclose(gradient, 3 * wanted, atol=1e-6)


@pytest.mark.parametrize("large", [400.0, -400.0])
def test_the_cross_entropy_stays_finite_at_huge_logits(large):
    z = tensor([large, -large]).requires_grad_()
    for found in (
        dense_cross_entropy(z, tensor([1.0, 1.0])),
        sparse_cross_entropy(z, sparse([[1, 1]])),
    ):
        assert found.item() == pytest.approx(400)
        (gradient,) = torch.autograd.grad(found, z)
        assert sorted(gradient[0].tolist()) == pytest.approx([-1, 0])


@pytest.mark.parametrize(
    ("y", "r", "v", "hard", "straight"),
    [(1, 0.2, 0, 0, 1), (1, -1.2, 1, 0, -1), (0, -0.2, 1, 0, -1), (0, 0.3, 0, 1, 1),
     (1, 0, 0, 1, 1), (0, 0, 1, -1, -1), (1, 0, 1, 0, 0)],
)  # fmt: skip
def test_the_clip_cuts_the_gradient_and_the_straight_one_does_not(y, r, v, hard, straight):
    for clip, expected in ((lambda x: x.clamp(0, 1), hard), (clip_straight_through, straight)):
        residual = torch.tensor([[float(r)]], requires_grad=True)
        cleaned = clip(y + residual)
        cleaning_loss(cleaned, torch.tensor([[float(v)]])).backward()
        assert residual.grad.item() == expected
        assert cleaned.item() == pytest.approx(min(max(y + r, 0), 1))


def test_the_cleaning_loss_is_of_known_pairs_alone():
    cleaned, verified = torch.rand(4, 5), torch.rand(4, 5).round()
    known = torch.rand(4, 5) > 0.5
    expected = slow.distance([cleaned[known].tolist()], [verified[known].tolist()])
    assert cleaning_loss(cleaned, verified, known).item() == pytest.approx(expected, rel=1e-5)


@given(st.floats(-15, 15), st.floats(-15, 15), st.floats(-15, 15))
def test_relevance_is_its_formula(visual, if_present, if_absent):
    given_, left_out = relevance_probability(*(torch.tensor([[x]]).double() for x in
                                               (visual, if_present, if_absent)))  # fmt: skip
    expected = slow.relevance(visual, if_present, if_absent)
    assert given_.exp().item() == pytest.approx(expected, rel=1e-6)
    assert left_out.exp().item() == pytest.approx(1 - expected, rel=1e-6, abs=1e-12)


def test_the_relevance_loss_is_cross_entropy_of_its_probability():
    z = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    y = (random_like(np.zeros((3, 4))) > 0.5).astype(float)
    given_, left_out = relevance_probability(*z)
    expected = -(y * given_.numpy() + (1 - y) * left_out.numpy()).sum()
    found = relevance_cross_entropy(given_, left_out, sparse(y)).item()
    assert found == pytest.approx(expected, rel=1e-5)


def bias_only(share, loss_of):
    """What a cleaner of one number learns of 100 assertions of which `share` are right."""
    r = torch.zeros((), requires_grad=True)
    right = torch.zeros(100)
    right[: round(100 * share)] = 1
    optimizer = torch.optim.SGD([r], 0.03)
    for _ in range(450):
        loss = loss_of((1 + r).clamp(0, 1).expand(100, 1), right[:, None]) / 100
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (1 + r).clamp(0, 1).item()


@pytest.mark.parametrize(("share", "median"), [(0.3, 0), (0.45, 0), (0.55, 1), (0.7, 1)])
def test_absolute_differences_teach_the_median_and_squared_ones_the_share(share, median):
    assert bias_only(share, cleaning_loss) == pytest.approx(median, abs=0.05)
    squared = bias_only(share, lambda c, v: (c - v).square().sum())
    assert squared == pytest.approx(share, abs=0.02)


# The targets


matrices = shapes.flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=st.sampled_from([0, 0, 1, 0.5])),
        arrays(np.int8, shape, elements=st.sampled_from([0, 0, 0, 1, -1])),
    )
)


@given(matrices, st.sampled_from(["noisy", "absent", "ignore"]))
def test_targets_are_what_people_said_and_the_rule_elsewhere(pair, rule):
    asserted, verified = pair
    found = pair_targets(csr_array(asserted), csr_array(verified), rule)
    assert found.toarray().tolist() == slow.targets(asserted.tolist(), verified.tolist(), rule)
    assert (found.data != 0).all()


def test_another_rule_is_refused():
    nothing = csr_array((1, 1), dtype=np.float32)
    with pytest.raises(ConfigError, match="unverified is 'maybe'; expected one of noisy, absent,"):
        pair_targets(nothing, nothing, "maybe")


@given(matrices, st.integers(0, 2**32))
def test_only_rows_keeps_these_and_empties_the_others(pair, seed):
    matrix = csr_array(pair[1])
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(pair[1])) < 0.5)
    expected = np.zeros_like(pair[1])
    expected[rows] = pair[1][rows]
    assert (only_rows(matrix, rows).toarray() == expected).all()
    assert frequencies(matrix, rows).tolist() == pytest.approx(
        (expected.sum(axis=0) / max(1, len(rows))).tolist()
    )


@given(matrices)
def test_people_overrule_and_are_never_altered(pair):
    asserted, verified = pair
    matrix = csr_array(asserted)
    values = random_like(np.zeros(matrix.nnz)).astype(np.float32)
    found = overruled(values, matrix, csr_array(verified))
    said = verified[asserted != 0]
    assert (found[said > 0] == 1).all()
    assert (found[said < 0] == 0).all()
    assert (found[said == 0] == values[said == 0]).all()


# Scores of held-out pairs


def test_average_precision_has_its_known_values_and_no_order_within_ties():
    right = np.array([1, 0, 1, 1, 0]) > 0
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), right) == pytest.approx(0.8055556)
    scores, right = np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 1]) > 0
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0]):
        assert average_precision(scores[order], right[order]) == pytest.approx(0.8055556)
    assert math.isnan(average_precision(scores, np.ones(4, bool)))
    assert math.isnan(average_precision(scores, np.zeros(4, bool)))


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=2))
def test_average_precision_is_its_definition(pairs):
    scores, right = (np.array(column) for column in zip(*pairs, strict=True))
    if right.all() or not right.any():
        return
    expected = slow.average_precision(scores.tolist(), right.tolist())
    assert average_precision(scores, right) == pytest.approx(expected)


@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 99))
def test_each_row_is_held_out_once(n, n_folds, seed):
    rows = np.arange(n) * 3
    parts = folds(rows, seed, n_folds)
    assert sorted(np.concatenate([held for _, held in parts]).tolist()) == rows.tolist()
    for fit, held in parts:
        assert sorted([*fit, *held]) == rows.tolist()
    assert [part.tolist() for part in held_out(rows, seed)] == [
        part.tolist() for part in held_out(rows, seed)
    ]


def test_too_sure_logits_are_shrunk_to_what_held_out_pairs_say():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-logits))
    found = stretched(3 * logits + 1, right)
    assert found.slope == pytest.approx(1 / 3, abs=0.03)
    assert found.shift == pytest.approx(-1 / 3, abs=0.1)


def test_pairs_that_are_told_apart_without_fail_do_not_stretch_without_end():
    found = stretched(np.array([2.0, 2, -2, -2]), np.array([True, True, False, False]))
    assert 1 <= found.slope <= 5


# The optimizer


@given(
    st.floats(0.01, 0.5), st.floats(0.1, 0.95), st.floats(0, 0.95), st.sampled_from([1.0, 1e-3]),
    st.floats(0, 0.3), st.lists(st.floats(-2, 2), min_size=1, max_size=5),
)  # fmt: skip
def test_rmsprop_is_its_formula(rate, share, momentum, epsilon, decay, gradients):
    net = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.constant_(net.weight, 0.7)
    settings = Optimizer("rmsprop", momentum, share, epsilon=epsilon, weight_decay=decay)
    (optimizer,) = make_optimizers(settings, [net])
    for gradient in gradients:
        net.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    expected = slow.rmsprop(
        0.7, gradients, rate=rate, share=share, momentum=momentum, eps=epsilon, decay=decay
    )
    assert net.weight.item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_an_epsilon_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="epsilon is 0; expected a number above 0"):
        Optimizer("rmsprop", epsilon=0)
