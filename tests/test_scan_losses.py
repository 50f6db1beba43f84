"""SCAN's losses: against slow twins, golden values of the authors' code, and at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import reference_scan as slow
from labelsieve.errors import ConfigError, DataError
from labelsieve.loop.runtime import Runtime, bare
from labelsieve.methods.scan import losses
from labelsieve.methods.scan.losses import (
    Confident,
    RunningMean,
    confident,
    most_confident,
    scan_loss,
    self_label_loss,
    validation_loss,
)
from processes import together

seeds = st.integers(0, 10_000)


def sines(rows, factor):
    """The made input of the golden values: 2 sin(factor * (4i + j))."""
    return (2 * (factor * torch.arange(4 * rows, dtype=torch.float64)).sin()).float().view(rows, 4)


def drawn(*shape, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


A, N = sines(6, 0.7), sines(6, 1.3)


# The loss of a batch


@pytest.mark.parametrize(("weight", "total"), [(0, 1.621306), (2, -1.091067), (5, -5.159626)])
def test_scan_loss_is_that_of_the_authors_code(weight, total):
    found = scan_loss(A, N, weight)
    assert found.consistency.item() == pytest.approx(1.621306, abs=2e-6)
    assert found.entropy.item() == pytest.approx(1.356187, abs=2e-6)
    assert found.loss.item() == pytest.approx(total, abs=2e-6)


def test_gradient_is_that_of_the_authors_code():
    anchors = A.clone().requires_grad_()
    scan_loss(anchors, N).loss.backward()
    expected = [0.024313, -0.085097, -0.054347, 0.115131]
    assert anchors.grad[0].tolist() == pytest.approx(expected, abs=2e-6)
    assert anchors.grad.norm().item() == pytest.approx(0.334906, abs=2e-6)


def test_equal_logits_are_at_chance():
    found = scan_loss(torch.zeros(7, 10), torch.zeros(7, 10))
    assert found.consistency.item() == pytest.approx(2.302585, abs=1e-6)
    assert found.entropy.item() == pytest.approx(2.302585, abs=1e-6)
    assert found.loss.item() == pytest.approx(-9.210339, abs=1e-6)


def test_sure_agreement_over_even_clusters_is_the_minimum():
    logits = 50 * torch.eye(10)
    assert scan_loss(logits, logits).loss.item() == pytest.approx(-11.512925, abs=1e-5)


def test_one_cluster_for_all_is_worse_than_chance():
    logits = 50 * torch.eye(10)[:1].repeat(8, 1)
    total = scan_loss(logits, logits).loss.item()
    assert total == pytest.approx(0, abs=1e-5)
    assert total > scan_loss(torch.zeros(8, 10), torch.zeros(8, 10)).loss.item()


@pytest.mark.parametrize(
    ("anchor", "neighbor", "expected"),
    [
        ([300.0, 0.0], [0.0, 300.0], 300 - math.log(2)),
        ([300.0, -300.0], [-300.0, 300.0], 600 - math.log(2)),
        ([300.0, 0, 0, 0], [0, 0, 0, 300.0], 300 - math.log(2)),
    ],
)
def test_a_sure_contradiction_has_a_finite_loss_and_a_gradient(anchor, neighbor, expected):
    anchors = torch.tensor([anchor], requires_grad=True)
    neighbors = torch.tensor([neighbor], requires_grad=True)
    found = scan_loss(anchors, neighbors)
    assert found.consistency.item() == pytest.approx(expected, abs=1e-3)
    found.loss.backward()
    for rows in anchors, neighbors:
        assert rows.grad.isfinite().all()
        assert rows.grad.abs().max() > 0.4  # half of each cluster must go to the other


def test_consistency_is_symmetric_and_entropy_is_of_the_anchors():
    one, other = scan_loss(A, N), scan_loss(N, A)
    assert one.consistency.item() == pytest.approx(other.consistency.item(), abs=1e-6)
    assert abs(one.entropy.item() - other.entropy.item()) > 1e-3


@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_the_order_of_clusters_and_of_rows_changes_nothing(seed, n, n_clusters):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(size, generator=generator) for size in (n, n_clusters))
    first, second = drawn(2, n, n_clusters, seed=seed)
    prior, before = drawn(2, n_clusters, seed=seed + 1).softmax(dim=1)
    expected = scan_loss(first, second, prior=prior, before=before, keep=0.6)
    moved = [logits[rows][:, columns] for logits in (first, second)]
    found = scan_loss(*moved, prior=prior[columns], before=before[columns], keep=0.6)
    torch.testing.assert_close(found, expected)


@given(seeds, st.integers(1, 6), st.integers(2, 6), st.sampled_from([0.0, 1.0, 5.0]), st.booleans())
def test_loss_and_gradient_are_those_of_the_slow_twin(seed, n, n_clusters, weight, with_prior):
    logits = drawn(2, n, n_clusters, seed=seed).requires_grad_()
    prior = torch.arange(1.0, n_clusters + 1) if with_prior else None
    found = scan_loss(*logits, weight, prior=prior)
    expected = slow.scan_loss(*logits, weight, prior)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-9, abs=1e-9)
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (found.loss, expected[0]))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@given(seeds, st.integers(1, 5), st.integers(1, 4), st.integers(2, 5))
def test_heads_are_a_loop_over_heads(seed, n_heads, n, n_clusters):
    first, second = drawn(2, n_heads, n, n_clusters, seed=seed)
    before = drawn(n_heads, n_clusters, seed=seed + 1).softmax(dim=1)
    found = scan_loss(first, second, before=before, keep=0.3)
    for head in range(n_heads):
        alone = scan_loss(first[head], second[head], before=before[head], keep=0.3)
        for ours, theirs in zip(found, alone, strict=True):
            assert ours.shape == (n_heads,)
            torch.testing.assert_close(ours[head], theirs)


@given(seeds, st.integers(1, 6), st.integers(2, 6))
def test_with_a_uniform_prior_the_entropy_is_short_by_log_c(seed, n, n_clusters):
    first, second = drawn(2, n, n_clusters, seed=seed)
    plain = scan_loss(first, second)
    found = scan_loss(first, second, prior=torch.full((n_clusters,), 3.0))
    assert found.entropy.item() == pytest.approx(plain.entropy.item() - math.log(n_clusters))
    assert found.entropy.item() <= 1e-12


def test_with_a_prior_the_best_mean_is_the_prior():
    prior = torch.tensor([0.5, 0.25, 0.25])
    even, as_known = torch.eye(3)[[0, 1, 2]], torch.eye(3)[[0, 0, 1, 2]]
    losses_of = [scan_loss(60 * rows, 60 * rows, prior=prior).loss for rows in (even, as_known)]
    assert losses_of[1].item() == pytest.approx(0, abs=1e-6)
    assert losses_of[0].item() > 0.1


# The mean over batches


def test_nothing_kept_is_the_loss_without_a_mean():
    before = torch.tensor([0.7, 0.1, 0.1, 0.1])
    torch.testing.assert_close(scan_loss(A, N, before=before), scan_loss(A, N), rtol=0, atol=0)


@given(seeds, st.integers(1, 5), st.integers(2, 5), st.floats(0.01, 0.99))
def test_entropy_is_of_the_mean_with_earlier_batches(seed, n, n_clusters, keep):
    first, second = drawn(2, n, n_clusters, seed=seed)
    before = drawn(n_clusters, seed=seed + 1).softmax(dim=0)
    found = scan_loss(first, second, before=before, keep=keep)
    expected = slow.scan_loss(first, second, before=before, keep=keep)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-9, abs=1e-9)


@given(seeds, st.floats(0.01, 0.99))
def test_the_batch_gets_the_gradient_of_all_that_is_averaged(seed, keep):
    """dH/dp at the mixed mean; the slow twin's batch counts 1 - keep, and so its gradient."""
    first, second = drawn(2, 4, 3, seed=seed)
    first.requires_grad_()
    before = drawn(3, seed=seed + 1).softmax(dim=0).requires_grad_()
    found = scan_loss(first, second, before=before, keep=keep)
    expected = slow.scan_loss(first, second, before=before.detach(), keep=keep)
    ours, of_before = torch.autograd.grad(found[2], [first, before], allow_unused=True)
    (theirs,) = torch.autograd.grad(expected[2], first)
    torch.testing.assert_close(ours, theirs / (1 - keep), rtol=1e-7, atol=1e-9)
    assert of_before is None


def test_a_cluster_that_was_never_used_is_no_harm():
    logits = drawn(5, 3, dtype=torch.float32).requires_grad_()
    found = scan_loss(logits, logits, before=torch.tensor([1.0, 0.0, 0.0]), keep=0.9)
    found.loss.backward()
    assert found.loss.isfinite()
    assert logits.grad.isfinite().all()


@given(seeds, st.floats(0, 0.99))
def test_running_mean_is_that_of_the_slow_twin(seed, keep):
    running = RunningMean(2, 3, keep)
    assert running.mean.tolist() == [[pytest.approx(1 / 3)] * 3] * 2
    expected = running.mean.double().tolist()
    for step in range(3):
        logits = drawn(2, 4, 3, seed=seed + step)
        found = running.update(logits)
        expected = [
            slow.running_mean(mean, rows, keep) for mean, rows in zip(expected, logits, strict=True)
        ]
        assert found.tolist() == [pytest.approx([float(v) for v in mean]) for mean in expected]
        assert torch.equal(found, running.mean)


def test_what_is_kept_survives_saving_and_later_batches():
    running = RunningMean(1, 2, 0.5)
    first = running(torch.tensor([[[50.0, 0.0]]]))
    other = RunningMean(1, 2, 0.5)
    other.load_state_dict(running.state_dict())
    running.update(torch.tensor([[[0.0, 50.0]]]))
    assert first.tolist() == other.mean.tolist() == [[0.75, 0.25]]
    assert running.mean.tolist() == [[0.375, 0.625]]


def test_the_mean_may_move_on_before_the_backward():
    running, logits = RunningMean(1, 4, 0.9), A[None].clone().requires_grad_()
    loss = scan_loss(logits, N[None], before=running.mean, keep=running.keep).loss.sum()
    running.update(logits)
    loss.backward()
    assert logits.grad.abs().max() > 0
    assert not running.mean.requires_grad


def test_small_batches_keep_more_clusters_alive_with_a_mean():
    """20 groups, batches of 8: one batch cannot show whether all clusters are used."""
    plain, with_mean = (trained_on_groups(keep) for keep in (0.0, 0.9))
    assert with_mean < plain - 0.5
    assert with_mean == pytest.approx(-math.log(20), abs=0.4)


def trained_on_groups(keep):
    generator = torch.Generator().manual_seed(0)
    groups = torch.nn.functional.normalize(torch.randn(20, 32, generator=generator), dim=1)
    noise = 0.05 * torch.randn(400, 32, generator=generator)
    rows = groups.repeat(20, 1) + noise
    weight = (torch.randn(32, 20, generator=generator) / 6).requires_grad_()
    running, optimizer = RunningMean(1, 20, keep), torch.optim.Adam([weight], lr=0.02)
    for _ in range(400):
        chosen = torch.randint(400, (8,), generator=generator)
        logits, others = (rows[at][None] @ weight for at in (chosen, (chosen + 20) % 400))
        loss = scan_loss(logits, others, before=running.mean, keep=keep).loss.sum()
        running.update(logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    neighbors = (torch.arange(400)[:, None] + torch.tensor([20, 40])) % 400
    return validation_loss((rows @ weight.detach())[None], neighbors).item()


# The loss on held-out images


@given(seeds, st.integers(1, 3), st.integers(1, 8), st.integers(0, 4), st.integers(1, 5))
def test_validation_loss_is_that_of_all_products(seed, n_heads, n, k, n_clusters):
    generator = torch.Generator().manual_seed(seed)
    logits = drawn(n_heads, n, n_clusters, seed=seed)
    neighbors = torch.randint(0, n, (n, k), generator=generator)
    found = validation_loss(logits, neighbors)
    assert found.shape == (n_heads,)
    assert (found >= -math.log(n_clusters) - 1e-9).all()
    for head, value in zip(logits, found.tolist(), strict=True):
        assert value == pytest.approx(slow.validation_loss(head, neighbors).item(), abs=1e-9)
        by_matrix = slow.validation_loss_by_matrix(head, neighbors)
        assert value == pytest.approx(by_matrix.item(), abs=1e-9)


@pytest.mark.parametrize("chunk", [1, 3 * 5, 10**6])
def test_validation_loss_does_not_depend_on_its_chunks(monkeypatch, chunk):
    logits, neighbors = drawn(2, 11, 3), torch.arange(22).view(11, 2) % 11
    expected = validation_loss(logits, neighbors)
    monkeypatch.setattr(losses, "_CHUNK", chunk)
    torch.testing.assert_close(validation_loss(logits, neighbors), expected)


def test_validation_loss_is_best_where_neighbors_agree_and_clusters_are_even():
    logits, neighbors = 60 * torch.eye(4).repeat(3, 1), (torch.arange(12)[:, None] + 4) % 12
    assert validation_loss(logits[None], neighbors).item() == pytest.approx(-math.log(4), abs=1e-6)
    assert validation_loss(0 * logits[None], neighbors).item() == pytest.approx(0, abs=1e-6)


def test_validation_loss_counts_the_image_itself_and_weighs_entropy_by_one():
    logits = torch.tensor([[[20.0, 0.0], [0.0, 20.0]]])
    neighbors = torch.tensor([[1], [0]])
    # pairs: two with themselves at 0, two contradictions at 20 - ln 2; entropy ln 2
    expected = (20 - math.log(2)) / 2 - math.log(2)
    assert validation_loss(logits, neighbors).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("low", "high"), [(-1, 2), (0, 3)])
def test_a_neighbor_that_is_no_row_is_told(low, high):
    with pytest.raises(
        DataError, match=rf"neighbors are {low} to {high}; expected rows of the log"
    ):
        validation_loss(torch.zeros(1, 3, 2), torch.tensor([[low], [0], [high]]))


# Self-labels

WEAK = torch.tensor(
    [[6.0, 0, 0, 0], [6, 0, 0, 0], [0, 7, 0, 0], [0, 0, 0, 1], [0, 0, 6, 0], [6, 0, 0, 0.5]]
)
STRONG = sines(6, 0.9)


def test_self_label_loss_is_that_of_the_authors_code():
    found = confident(WEAK, 0.98)
    assert found.mask.tolist() == [True, True, True, False, True, True]
    assert found.labels.tolist() == [0, 0, 1, 3, 2, 0]
    assert self_label_loss(STRONG, found).item() == pytest.approx(2.235459, abs=2e-6)
    plain = self_label_loss(STRONG, found, balanced=False)
    assert plain.item() == pytest.approx(2.445065, abs=2e-6)


def test_balanced_is_the_mean_over_clusters_of_the_mean_over_their_rows():
    rows = nn.functional.cross_entropy(STRONG, torch.tensor([0, 0, 1, 3, 2, 0]), reduction="none")
    by_cluster = [rows[[0, 1, 5]].mean(), rows[2], rows[4]]  # 0, 1, 2; row 3 is not believed
    found = self_label_loss(STRONG, confident(WEAK, 0.98))
    assert found.item() == pytest.approx(sum(by_cluster).item() / 3)


def test_nothing_confident_is_no_loss():
    found = confident(WEAK, 0.9999)
    assert not found.mask.any()
    assert self_label_loss(STRONG, found) is None
    assert self_label_loss(STRONG, found, balanced=False) is None


def test_the_threshold_is_exceeded_and_not_only_reached():
    logits = torch.tensor([[0.0, 0.0], [0.1, 0.0]])
    assert confident(logits, 0.5).mask.tolist() == [False, True]


@given(seeds, st.integers(1, 9), st.integers(1, 4), st.floats(0, 1), st.booleans())
def test_self_label_loss_and_gradient_are_those_of_the_slow_twin(
    seed, n, n_clusters, threshold, balanced
):
    weak, strong = drawn(2, n, n_clusters, seed=seed)
    strong.requires_grad_()
    found = confident(weak, threshold)
    labels, mask = slow.confident(weak, threshold)
    assert (found.labels.tolist(), found.mask.tolist()) == (labels, mask)
    ours = self_label_loss(strong, found, balanced)
    theirs = slow.self_label_loss(strong, labels, mask, balanced)
    if theirs is None:
        assert ours is None
        return
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9, abs=1e-9)
    if n_clusters > 1:
        gradients = [torch.autograd.grad(loss, strong)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_self_labels_that_surely_contradict_have_a_gradient():
    strong = torch.tensor([[300.0, -300.0]], requires_grad=True)
    loss = self_label_loss(strong, Confident(torch.tensor([1]), torch.tensor([True])))
    loss.backward()
    assert loss.item() == pytest.approx(600)
    assert strong.grad.tolist() == [[1.0, -1.0]]


def test_rows_that_are_not_believed_get_no_gradient():
    strong = STRONG.clone().requires_grad_()
    self_label_loss(strong, confident(WEAK, 0.98)).backward()
    assert strong.grad.abs().amax(dim=1).gt(0).tolist() == [True, True, True, False, True, True]


@given(seeds, st.integers(1, 20), st.integers(1, 4), st.floats(0, 1))
def test_most_confident_is_that_of_the_slow_twin(seed, n, n_clusters, share):
    logits = drawn(n, n_clusters, seed=seed)
    assume(n_clusters > 1 or n == 1)  # of one cluster all are equally sure, but for rounding
    found = most_confident(logits, share, n_clusters)
    labels, mask = slow.most_confident(logits, share, n_clusters)
    assert (found.labels.tolist(), found.mask.tolist()) == (labels, mask)
    for cluster in range(n_clusters):
        wanted = round(share * n / n_clusters)
        n_chosen = int((found.mask & (found.labels == cluster)).sum())
        assert n_chosen == min(wanted, int((found.labels == cluster).sum()))


def test_of_equally_confident_rows_the_first_are_taken():
    logits = torch.tensor([[0.0, 5.0], [5.0, 0.0]]).repeat(4, 1)
    assert most_confident(logits, 0.5, 2).mask.tolist() == [True] * 4 + [False] * 4


def test_rows_beyond_the_precision_of_probabilities_are_still_ranked():
    logits = torch.tensor([[20.0, 0.0], [40.0, 0.0], [30.0, 0.0], [0.0, 1.0]])
    assert (logits.softmax(dim=1)[:3, 0] == 1).all()
    assert most_confident(logits, 0.5, 2).mask.tolist() == [False, True, False, True]


@pytest.mark.parametrize(("share", "n_chosen"), [(0.0, 0), (0.4, 2 + 2), (1.0, 4 + 3)])
def test_all_clusters_give_the_same_number_as_far_as_they_have_it(share, n_chosen):
    logits = torch.eye(2).repeat_interleave(5, dim=0)[:8]  # five rows and three
    assert int(most_confident(logits, share, 2).mask.sum()) == n_chosen


# Precision, edges, errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_its_rounded_logits_in_float32(dtype):
    first, second = (rows.to(dtype) for rows in (100 * A, 100 * N))
    first.requires_grad_()
    found = scan_loss(first, second)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found, scan_loss(first.float(), second.float()))
    found.loss.backward()
    assert first.grad.isfinite().all()
    neighbors = torch.zeros(6, 1, dtype=torch.int64)
    ours, theirs = (validation_loss(rows[None], neighbors) for rows in (first, first.float()))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    believed = most_confident(second, 0.5, 4)
    assert torch.equal(believed.mask, most_confident(second.float(), 0.5, 4).mask)
    assert torch.equal(confident(second).mask, confident(second.float()).mask)
    loss = self_label_loss(first, believed)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, self_label_loss(first.float(), believed))


def test_autocast_changes_nothing():
    with torch.autocast("cpu", torch.bfloat16):
        inside = scan_loss(A, N), self_label_loss(STRONG, confident(WEAK, 0.98))
    outside = scan_loss(A, N), self_label_loss(STRONG, confident(WEAK, 0.98))
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_one_image_and_one_cluster_have_their_values():
    found = scan_loss(torch.tensor([[2.0]]), torch.tensor([[-3.0]]))
    assert [value.item() for value in found] == [0, 0, 0]
    alone = scan_loss(A[:1], N[:1])
    p = A[0].softmax(0)
    assert alone.entropy.item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-6)
    assert validation_loss(torch.zeros(1, 1, 1), torch.zeros(1, 0, dtype=torch.int64)).item() == 0
    assert most_confident(torch.zeros(3, 1), 1 / 3, 1).mask.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scan_loss(A, N[:5]), r"anchors are \(6, 4\) and neighbors \(5, 4\); expected one"),
        (lambda: scan_loss(A[:0], N[:0]), r"of B >= 1 images."),
        (lambda: scan_loss(A, N, prior=torch.ones(3)), r"prior is \(3,\); expected \(4,\) for log"),
        (
            lambda: scan_loss(A[None], N[None], before=torch.ones(4), keep=0.5),
            r"before is \(4,\); expected \(1, 4\) for logits \(1, 6, 4\).",
        ),
        (lambda: RunningMean(2, 4).update(A[None]), r"are \(1, 6, 4\); expected \(2, B, 4\) of B"),
        (
            lambda: validation_loss(A[None], torch.zeros(5, 1, dtype=torch.int64)),
            r"logits are \(1, 6, 4\) and neighbors \(5, 1\); expected \(H, N, C\) and \(N, K\).",
        ),
        (lambda: confident(A[None]), r"logits are \(1, 6, 4\); expected \(B, C\) of B >= 1 images"),
        (lambda: most_confident(A[:0], 0.5, 4), r"logits are \(0, 4\); expected \(B, C\)"),
    ],
)
def test_shapes_that_do_not_fit_are_told(call, message):
    with pytest.raises(DataError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scan_loss(A, N, keep=0.9), "keep is 0.9; expected 0 <= keep < 1, and above 0 wi"),
        (lambda: scan_loss(A, N, before=torch.ones(4), keep=1.0), "keep is 1.0; expected 0 <="),
        (lambda: RunningMean(1, 2, 1.0), "keep is 1.0; expected 0 <= keep < 1."),
        (lambda: RunningMean(0, 2), "0 heads of 2 clusters; expected 1 or more each."),
        (lambda: most_confident(A, 1.5, 4), "share is 1.5; expected 0 to 1."),
        (lambda: most_confident(A, 0.5, 0), "n_clusters is 0; at least 1 is needed."),
    ],
)
def test_settings_out_of_range_are_told(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


# Several processes


def stepped(name):
    """Losses, gradients and state of three steps, rows of the whole batch shared by processes."""
    runtime = Runtime.start("cpu")
    weights = drawn(2 * 3, 5, seed=1)
    net = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2 * 3)).double()
    net[1].weight.data, net[1].bias.data = weights, torch.zeros(6, dtype=torch.float64)
    net = runtime.prepare(net)
    running = RunningMean(2, 3, 0.5).double()
    values = []
    for step in range(3):
        logits = [heads(net, drawn(8, 5, seed=10 * step + view), runtime) for view in (0, 1)]
        loss = the_loss(name, *logits, running)
        running.update(logits[0])
        net.zero_grad()
        runtime.backward(loss)
        values += [loss.detach(), *(weight.grad.clone() for weight in net.parameters())]
    return [*values, running.mean, *bare(net).state_dict().values()]


def heads(net, images, runtime):
    n = len(images) // runtime.n_processes
    own = net(images[runtime.rank * n : (runtime.rank + 1) * n]).view(n, 2, 3)
    return runtime.gather(own).transpose(0, 1)


def the_loss(name, first, second, running):
    if name == "scan":
        return scan_loss(first, second, before=running.mean, keep=running.keep).loss.sum()
    found = most_confident(first[0].detach(), 0.6, 3)
    return self_label_loss(second[1], found)


@pytest.mark.parametrize("name", ["scan", "self-label"])
def test_two_processes_have_loss_and_gradients_of_one(name):
    alone = stepped(name)
    losses_and_gradients = alone[:15]  # a loss and four gradients a step
    assert all(value.abs().max() > 1e-3 for value in losses_and_gradients)
    for found in together(stepped, name):
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)
