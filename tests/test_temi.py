"""TEMI's objective: against a slow twin, by hand, and at its bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import reference_scan as slow
from labelsieve.errors import DataError
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.scan.losses import RunningMean, log_probabilities
from labelsieve.methods.scan.temi import agreement_weights, information, temi_loss
from processes import together

seeds = st.integers(0, 10_000)
sizes = st.integers(1, 4)


def drawn(*shape, seed=0, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def of(probabilities, temperature=0.1):
    """Logits of one head that have these probabilities."""
    return temperature * torch.tensor([probabilities], dtype=torch.float64).log()


STUDENT, TEACHER = of([[0.9, 0.1], [0.2, 0.8]]), of([[0.8, 0.2], [0.5, 0.5]])
PRIOR = torch.tensor([[0.6, 0.4]], dtype=torch.float64)


def test_two_pairs_by_hand():
    # pmi: log(.9 * .8 / .6 + .1 * .2 / .4) = log 1.25; log(.2 * .5 / .6 + .8 * .5 / .4) = log 7/6
    found = temi_loss(STUDENT, TEACHER, PRIOR, beta=1.0)
    expected = -(math.log(1.25) + math.log(7 / 6)) / 2
    assert found.tolist() == [pytest.approx(expected, abs=1e-9)]
    weighted = temi_loss(STUDENT, TEACHER, PRIOR, beta=1.0, weights=torch.tensor([1.0, 0.5]))
    expected = -(math.log(1.25) + 0.5 * math.log(7 / 6)) / 2
    assert weighted.tolist() == [pytest.approx(expected, abs=1e-9)]


def test_beta_is_a_power_of_both_and_not_of_the_prior():
    found = temi_loss(STUDENT, TEACHER, PRIOR, beta=0.5)
    first = math.sqrt(0.9 * 0.8) / 0.6 + math.sqrt(0.1 * 0.2) / 0.4
    second = math.sqrt(0.2 * 0.5) / 0.6 + math.sqrt(0.8 * 0.5) / 0.4
    assert found.tolist() == [pytest.approx(-(math.log(first) + math.log(second)) / 2, abs=1e-9)]


def test_weights_by_hand():
    found = agreement_weights(STUDENT, TEACHER)
    assert found.tolist() == pytest.approx([0.9 * 0.8 + 0.1 * 0.2, 0.2 * 0.5 + 0.8 * 0.5])
    heads = [torch.cat([STUDENT, TEACHER]), torch.cat([TEACHER, TEACHER])]
    own = [0.8**2 + 0.2**2, 0.5]  # the second head's
    assert agreement_weights(*heads).tolist() == pytest.approx([(0.74 + own[0]) / 2, 0.5])


@given(seeds, sizes, sizes, sizes, st.floats(0.1, 1), st.floats(0.1, 2))
def test_loss_weights_and_gradient_are_those_of_the_slow_twin(
    seed, n_heads, n, n_clusters, beta, temperature
):
    student, teacher, other = drawn(3, n_heads, n, n_clusters, seed=seed)
    prior = drawn(n_heads, n_clusters, seed=seed + 1).softmax(dim=1)
    weights = agreement_weights(teacher, other, temperature)
    expected = slow.agreement_weights(teacher, other, temperature)
    assert weights.tolist() == pytest.approx([value.item() for value in expected])
    student.requires_grad_()
    found = temi_loss(student, teacher, prior, beta, temperature, weights)
    expected = [
        slow.temi_loss(student[h], teacher[h], prior[h], beta, temperature, weights)
        for h in range(n_heads)
    ]
    assert found.tolist() == pytest.approx([loss.item() for loss in expected], abs=1e-9)
    ours, theirs = (
        torch.autograd.grad(sum(losses), student)[0] for losses in (found.unbind(), expected)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@given(seeds, sizes, sizes, sizes, st.floats(0.1, 1))
def test_the_order_of_clusters_and_of_rows_changes_nothing(seed, n_heads, n, n_clusters, beta):
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(size, generator=generator) for size in (n, n_clusters))
    student, teacher = drawn(2, n_heads, n, n_clusters, seed=seed)
    prior = drawn(n_heads, n_clusters, seed=seed + 1).softmax(dim=1)
    moved = [logits[:, rows][:, :, columns] for logits in (student, teacher)]
    torch.testing.assert_close(
        temi_loss(*moved, prior[:, columns], beta), temi_loss(student, teacher, prior, beta)
    )
    weights = agreement_weights(student, teacher)
    torch.testing.assert_close(agreement_weights(*moved), weights[rows])


@pytest.mark.parametrize("n_clusters", [2, 10])
def test_sure_and_even_clusters_reach_log_c_and_a_collapse_gets_nothing(n_clusters):
    logits = 5 * torch.eye(n_clusters).repeat(2, 1)[None]
    even = torch.full((1, n_clusters), 1 / n_clusters)
    assert temi_loss(logits, logits, even, beta=1.0).item() == pytest.approx(-math.log(n_clusters))
    one = logits[:, :1].expand_as(logits)
    collapsed = temi_loss(one, one, (one / 0.1).softmax(dim=2).mean(dim=1), beta=1.0)
    assert collapsed.item() == pytest.approx(0, abs=1e-6)


@given(seeds, sizes, st.integers(1, 8), sizes)
def test_nothing_is_better_than_log_c(seed, n_heads, n, n_clusters):
    student, teacher = drawn(2, n_heads, n, n_clusters, seed=seed, scale=1.0)
    prior = (teacher / 0.1).softmax(dim=2).mean(dim=1)
    found = temi_loss(student, teacher, prior, beta=1.0)
    assert (found >= -math.log(n_clusters) - 1e-9).all()


def test_a_neighbor_of_which_nothing_is_known_has_no_information():
    prior = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    log_p = prior.log()[:, None]
    other = torch.tensor([[[0.2, 0.3, 0.5]]], dtype=torch.float64).log()
    assert information(other, log_p, prior.log(), 1.0).item() == pytest.approx(0, abs=1e-12)


def test_the_teacher_the_prior_and_the_weights_get_no_gradient():
    student, teacher, prior = (each.clone().requires_grad_() for each in (STUDENT, TEACHER, PRIOR))
    weights = torch.ones(2, requires_grad=True)
    temi_loss(student, teacher, prior, weights=weights).sum().backward()
    assert teacher.grad is prior.grad is weights.grad is None
    assert student.grad.abs().min() > 0
    assert not agreement_weights(student, teacher).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.6, 1.0])
def test_sure_contradictions_and_dead_clusters_are_finite(dtype, beta):
    student = torch.tensor([[[300.0, -300, 0], [0, 300, -300]]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[[-300.0, 300, 0], [300, 0, -300]]], dtype=dtype)
    prior = torch.tensor([[0.5, 0.5, 0.0]])
    found = temi_loss(student, teacher, prior, beta)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    found.sum().backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().amax(dim=2).min() > 0.1
    weights = agreement_weights(student, teacher)
    assert weights.tolist() == [0, 0]


def test_a_step_as_documented_pulls_neighbors_together_and_uses_all_clusters():
    generator = torch.Generator().manual_seed(0)
    centers = nn.functional.normalize(torch.randn(4, 16, generator=generator), dim=1)
    rows = centers.repeat(25, 1) + 0.1 * torch.randn(100, 16, generator=generator)
    student = (0.1 * torch.randn(3, 16, 4, generator=generator)).requires_grad_()
    teacher, running = student.detach().clone(), RunningMean(3, 4, 0.9)
    optimizer = torch.optim.Adam([student], lr=0.02)
    for _ in range(300):
        at = torch.randint(100, (32,), generator=generator)
        pair = rows[at], rows[(at + 4 * torch.randint(25, (32,), generator=generator)) % 100]
        (s_a, s_b), (t_a, t_b) = ([x @ w for x in pair] for w in (student, teacher))
        prior = running.update(torch.cat([t_a, t_b], dim=1) / 0.1)
        weights = agreement_weights(t_a, t_b, 0.1)
        first = temi_loss(s_a, t_b, prior, weights=weights)
        second = temi_loss(s_b, t_a, prior, weights=weights)
        optimizer.zero_grad()
        ((first + second) / 2).sum().backward()
        optimizer.step()
        teacher.lerp_(student.detach(), 0.05)
    clusters = (rows @ teacher).argmax(dim=2).view(3, 25, 4)  # by head and group
    modes = clusters.mode(dim=1).values  # (3, 4)
    assert all(len(set(head)) == 4 for head in modes.tolist())
    assert (clusters == modes[:, None]).double().mean() > 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: temi_loss(STUDENT, TEACHER[:, :1], PRIOR),
            r"logits are \(1, 2, 2\) and \(1, 1, 2\); expected one shape \(H, B, C\) of B >= 1",
        ),
        (lambda: temi_loss(STUDENT[0], TEACHER[0], PRIOR), r"logits are \(2, 2\) and \(2, 2\)"),
        (lambda: temi_loss(STUDENT, TEACHER, PRIOR[0]), r"prior is \(2,\); expected \(1, 2\), one"),
        (lambda: agreement_weights(STUDENT[:, :0], TEACHER[:, :0]), r"expected one shape"),
    ],
)
def test_shapes_that_do_not_fit_are_told(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_temperature_divides_logits():
    logits = drawn(3, 4)
    torch.testing.assert_close(log_probabilities(logits, 0.1), (logits / 0.1).log_softmax(dim=1))


def stepped():
    """The documented step on gathered logits, three times: losses, gradients, the prior."""
    runtime = Runtime.start("cpu")
    net = nn.Linear(5, 2 * 3, bias=False).double()
    net.weight.data = drawn(6, 5, seed=1)
    net, teacher, running = runtime.prepare(net), drawn(5, 6, seed=2), RunningMean(2, 3, 0.5)
    values, n = [], 8 // runtime.n_processes
    for step in range(3):
        views = [drawn(8, 5, seed=10 * step + view, scale=1.0) for view in (0, 1)]
        own = [rows[runtime.rank * n : (runtime.rank + 1) * n] for rows in views]
        s = [runtime.gather(net(rows).view(n, 2, 3)).transpose(0, 1) for rows in own]
        t = [
            runtime.gather_detached((rows @ teacher).view(n, 2, 3)).transpose(0, 1) for rows in own
        ]
        prior = running.update(torch.cat(t, dim=1) / 0.1)
        weights = agreement_weights(*t)
        losses = [temi_loss(a, b, prior, weights=weights) for a, b in zip(s, t[::-1], strict=True)]
        loss = (sum(losses) / 2).sum()
        net.zero_grad()
        runtime.backward(loss)
        values += [loss.detach(), *(weight.grad.clone() for weight in net.parameters())]
    return [*values, prior]


def test_two_processes_have_loss_and_gradients_of_one():
    alone = stepped()
    assert all(value.abs().max() > 1e-3 for value in alone)
    for found in together(stepped):
        # the prior is float32: its last bits hang on the order of sums
        torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-9)
