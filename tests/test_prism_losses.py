"""The losses of PRISM: pairs within a batch and against a memory, and proxies of classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

import reference_prism_losses as slow
from labelsieve.errors import ConfigError
from labelsieve.methods.prism.losses import (
    InFloat32,
    SoftTriple,
    contrastive_loss,
    soft_triple_loss,
)

SEEDS = st.integers(0, 10_000)


def unit_rows(n, dim, seed=0, dtype=torch.float64):
    """Not too far from each other, so that many are above any margin."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(dim, generator=generator, dtype=dtype)
    return normalize(center + torch.randn(n, dim, generator=generator, dtype=dtype), dim=1)


def some_labels(n, n_classes, seed):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, n_classes, n))


# Pairs

# cosines to (1, 0): 1, 0.8, 0.6, 0, -1
ROWS = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])


def test_positives_are_pulled_and_only_negatives_above_the_margin_are_pushed():
    anchor, label = ROWS[:1], torch.tensor([0])
    labels = torch.tensor([0, 0, 1, 1, 0])
    # 1 - 1, 1 - 0.8 and 1 - -1 of its own label; 0.6 - 0.5 of the other, 0 is below the margin
    loss = contrastive_loss(anchor, label, ROWS, labels, divisor=1)
    assert loss.total.item() == pytest.approx(0 + 0.2 + 2.0 + 0.1)
    assert loss.n_pairs.item() == 4
    averaged = contrastive_loss(anchor, label, ROWS, labels, over="mean", divisor=1)
    assert averaged.total.item() == pytest.approx((0 + 0.2 + 2.0) / 3 + 0.1)
    assert averaged.n_pairs.item() == 4


def test_the_sum_over_anchors_is_divided_by_what_the_caller_says():
    labels = torch.tensor([0, 1, 0, 1, 0])
    one, eight = (contrastive_loss(ROWS, labels, ROWS, labels, divisor=n).total for n in (1, 8))
    assert one.item() == pytest.approx(8 * eight.item())


def test_a_pair_of_one_image_does_not_count():
    labels = torch.tensor([0, 0, 0])
    rows = ROWS[:3].clone().requires_grad_()
    itself = torch.eye(3, dtype=torch.bool)
    loss = contrastive_loss(rows, labels, rows, labels, divisor=3, same_image=itself)
    assert loss.n_pairs.item() == 6
    twins = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    fewer = contrastive_loss(rows, labels, rows, labels, divisor=3, same_image=twins)
    assert fewer.n_pairs.item() == 4
    # the cosine of rows 1 and 2 is 0.96, that of rows 0 and 2 is 0.6; each pair counts both ways
    assert fewer.total.item() == pytest.approx(2 * (0.04 + 0.4) / 3)
    assert loss.total.item() == pytest.approx(2 * (0.04 + 0.4 + 0.2) / 3)


@given(SEEDS, st.integers(1, 6), st.integers(1, 8), st.integers(1, 4),
       st.floats(-0.5, 0.9), st.sampled_from(["sum", "mean"]))  # fmt: skip
def test_pairs_are_those_of_the_slow_twin(seed, n_anchors, n_others, n_classes, margin, over):
    anchors, others = unit_rows(n_anchors, 3, seed), unit_rows(n_others, 3, seed + 1)
    labels, other_labels = (
        some_labels(n, n_classes, [seed, n, i]) for i, n in enumerate((n_anchors, n_others))
    )
    itself = torch.rand(n_anchors, n_others, generator=torch.Generator().manual_seed(seed)) < 0.2
    itself &= labels[:, None] == other_labels
    found = contrastive_loss(
        anchors, labels, others, other_labels,
        margin=margin, over=over, divisor=7, same_image=itself,
    )  # fmt: skip
    expected = slow.contrastive(
        anchors.tolist(), labels.tolist(), others.tolist(), other_labels.tolist(), margin, over, 7,
        {tuple(pair) for pair in itself.nonzero().tolist()},
    )  # fmt: skip
    assert found.total.item() == pytest.approx(expected[0], abs=1e-12)
    assert found.n_pairs.item() == expected[1]


@pytest.mark.parametrize("n_others", [0, 30])
def test_the_sum_is_the_contrastive_loss_of_pytorch_metric_learning(n_others):
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    reducers = pytest.importorskip("pytorch_metric_learning.reducers")
    theirs = losses.ContrastiveLoss(
        pos_margin=1, neg_margin=0.5, distance=distances.CosineSimilarity(),
        reducer=reducers.SumReducer(),
    )  # fmt: skip
    labels, other_labels = some_labels(16, 4, 0), some_labels(n_others, 4, 1)
    others = unit_rows(n_others, 5, seed=1)
    gradients, values = [], []
    for ours in (True, False):
        raw = unit_rows(16, 5).requires_grad_()
        rows = normalize(raw, dim=1)
        if n_others == 0:
            itself = torch.eye(16, dtype=torch.bool)
            loss = (
                contrastive_loss(rows, labels, rows, labels, divisor=16, same_image=itself).total
                if ours
                else theirs(rows, labels) / 16
            )
        else:
            loss = (
                contrastive_loss(rows, labels, others, other_labels, divisor=16).total
                if ours
                else theirs(rows, labels, ref_emb=others, ref_labels=other_labels) / 16
            )
        loss.backward()
        values.append(loss.item())
        gradients.append(raw.grad)
    assert values[0] > 0.1
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_leaving_out_the_own_image_is_what_leaving_out_similarities_of_one_was_for():
    """The authors' code ignores positives of s >= 1 - 1e-5: their gradient would be nothing."""
    rows, labels = unit_rows(12, 4, dtype=torch.float32), some_labels(12, 3, 0)
    itself = torch.eye(12, dtype=torch.bool)
    gradients = []
    for mask in (itself, None):
        raw = rows.clone().requires_grad_()
        unit = normalize(raw, dim=1)
        contrastive_loss(unit, labels, unit, labels, divisor=12, same_image=mask).total.backward()
        gradients.append(raw.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_mean_hangs_on_no_class_size_and_the_sum_does():
    anchors, labels = unit_rows(5, 4), some_labels(5, 2, 0)
    others, other_labels = unit_rows(9, 4, 1), some_labels(9, 2, 1)
    twice, twice_labels = torch.cat([others, others]), torch.cat([other_labels, other_labels])
    for over, factor in (("mean", 1.0), ("sum", 2.0)):
        once = contrastive_loss(anchors, labels, others, other_labels, over=over, divisor=5)
        more = contrastive_loss(anchors, labels, twice, twice_labels, over=over, divisor=5)
        assert more.total.item() == pytest.approx(factor * once.total.item())


@given(SEEDS)
def test_the_order_of_rows_and_names_of_labels_do_not_matter(seed):
    rows, labels = unit_rows(8, 3, seed), some_labels(8, 3, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(8))
    renamed = torch.tensor([7, 3, 40])[labels]
    first = contrastive_loss(rows, labels, rows, labels, divisor=8)
    second = contrastive_loss(rows[order], renamed[order], rows, renamed, divisor=8)
    assert first.total.item() == pytest.approx(second.total.item(), abs=1e-12)


@pytest.mark.parametrize("over", ["sum", "mean"])
def test_without_any_pair_the_loss_is_nothing_and_so_is_its_gradient(over):
    raw = torch.tensor([[1.0, 0.0]], requires_grad=True)
    itself = torch.ones(1, 1, dtype=torch.bool)
    label = torch.tensor([3])
    loss = contrastive_loss(raw, label, raw, label, over=over, divisor=1, same_image=itself)
    loss.total.backward()
    assert (loss.total.item(), loss.n_pairs.item()) == (0, 0)
    assert torch.equal(raw.grad, torch.zeros(1, 2))
    empty = contrastive_loss(raw, label, raw[:0], label[:0], over=over, divisor=1)
    assert empty.total.item() == 0


def test_another_way_to_put_pairs_together_is_refused():
    with pytest.raises(ConfigError, match="over is 'max'; expected one of sum, mean"):
        contrastive_loss(ROWS, torch.zeros(5), ROWS, torch.zeros(5), over="max", divisor=1)


# Proxies


def test_of_one_proxy_each_the_loss_is_that_of_scaled_cosines():
    proxies = 5 * torch.eye(3)[:, None]  # their length does not matter
    feature, label = torch.tensor([[0.6, 0.8, 0.0]]), torch.tensor([1])
    found = soft_triple_loss(feature, label, proxies, scale=2.0, gamma=0.1, margin=0.1)
    logits = [2 * 0.6, 2 * (0.8 - 0.1), 0.0]
    assert found.item() == pytest.approx(math.log(sum(map(math.exp, logits))) - logits[1], rel=1e-6)


def test_the_nearest_proxy_of_a_class_counts_where_the_temperature_is_low():
    proxies = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]])
    feature, label = torch.tensor([[0.0, -1.0]]), torch.tensor([1])
    sharp = soft_triple_loss(feature, label, proxies, scale=3.0, gamma=1e-3, margin=0.0)
    assert sharp.item() == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-5)
    blunt = soft_triple_loss(feature, label, proxies, scale=3.0, gamma=1e3, margin=0.0)
    assert blunt.item() == pytest.approx(math.log(2), abs=0.01)  # the mean of -1 and 1


def test_classes_that_are_equally_near_give_log_of_their_number():
    proxies = torch.ones(7, 4, 3)
    found = soft_triple_loss(unit_rows(5, 3), torch.arange(5), proxies.double(), margin=0.0)
    assert found.item() == pytest.approx(math.log(7))


@given(SEEDS, st.integers(1, 5), st.integers(2, 4), st.integers(1, 3))
def test_proxies_are_those_of_the_slow_twin(seed, n, n_classes, n_centers):
    features, labels = unit_rows(n, 3, seed), some_labels(n, n_classes, seed)
    proxies = 3 * unit_rows(n_classes * n_centers, 3, seed + 1).view(n_classes, n_centers, 3)
    found = soft_triple_loss(features, labels, proxies, scale=7.0, gamma=0.3, margin=0.05)
    expected = slow.soft_triple(
        features.tolist(), labels.tolist(), proxies.tolist(), 7.0, 0.3, 0.05
    )
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_soft_triple_is_that_of_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    theirs = losses.SoftTripleLoss(num_classes=6, embedding_size=8, centers_per_class=3)
    ours = SoftTriple(6, 8, n_centers=3)
    with torch.no_grad():
        ours.proxies.copy_(theirs.fc.T.view(6, 3, 8))
    labels, results = some_labels(10, 6, 0), []
    for loss, weights in ((ours, ours.proxies), (theirs, theirs.fc)):
        features = unit_rows(10, 8, dtype=torch.float32).requires_grad_()
        value = loss(normalize(features, dim=1), labels)
        value.backward()
        gradient = weights.grad if weights is ours.proxies else weights.grad.T.view(6, 3, 8)
        results.append((value.detach(), features.grad, gradient))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_every_proxy_is_a_direction_and_gets_a_gradient():
    torch.manual_seed(0)
    loss = SoftTriple(5, 16, n_centers=4)
    assert loss.proxies.shape == (5, 4, 16)
    torch.testing.assert_close(loss.proxies.norm(dim=2), torch.ones(5, 4))
    assert (loss.proxies[0] @ loss.proxies[0].T).fill_diagonal_(0).abs().max() < 0.9
    loss(unit_rows(8, 16, dtype=torch.float32), some_labels(8, 5, 0)).backward()
    assert (loss.proxies.grad.abs().sum(dim=2) > 0).all()


def test_proxies_of_nothing_are_refused():
    with pytest.raises(ConfigError, match="5 classes of 0 proxies of 3 numbers; expected 1"):
        SoftTriple(5, 3, n_centers=0)


def test_a_loss_is_computed_in_float32_whatever_autocast_says():
    torch.manual_seed(0)
    loss = InFloat32(SoftTriple(40, 32))
    features, labels = unit_rows(16, 32, dtype=torch.float32), some_labels(16, 40, 0)
    expected = loss(features, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(features, labels), expected)
        assert not torch.equal(loss.loss(features, labels).float(), expected)
