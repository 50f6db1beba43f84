"""Contrastive objectives: against slow twins, published values, and at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

import reference_objectives as slow
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.objectives import (
    contrast_groups,
    guided_contrastive,
    info_nce_queue,
    mixed_targets,
    n_pairs,
    n_pairs_mixed,
    nt_xent,
    nt_xent_one_sided,
    nt_xent_views,
    soft_n_pairs,
    supervised_contrastive,
)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def every_loss(n: int, seed: int = 0):
    """Name -> (function of two (n, P) views and a temperature); the rest of the input is drawn."""
    generator = torch.Generator().manual_seed(seed + 7)
    order = torch.randperm(n, generator=generator)
    groups = torch.randint(-1, 3, (n,), generator=generator)
    labels = torch.randint(0, 3, (n,), generator=generator)
    queue = unit(5, 4, seed=seed + 1, dtype=torch.bfloat16)  # the same in every dtype

    def supervised(a, b, t):
        return supervised_contrastive(torch.cat([a, b]), labels.repeat(2), t)

    return {
        "nt_xent": nt_xent,
        "nt_xent_views": lambda a, b, t: nt_xent_views(torch.stack([a, b, b.roll(1, 1)]), t),
        "decoupled": lambda a, b, t: nt_xent(a, b, t, decoupled=True),
        "nt_xent_one_sided": nt_xent_one_sided,
        "n_pairs": n_pairs,
        "n_pairs_mixed": lambda a, b, t: n_pairs_mixed(a, b, order, 0.7, t),
        "info_nce_queue": lambda a, b, t: info_nce_queue(a, b, queue.to(a), t),
        "supervised": supervised,
        "guided": lambda a, b, t: guided_contrastive(a, b, groups, order, 0.7, t),
    }


LOSSES = sorted(every_loss(2))
each_loss = pytest.mark.parametrize("name", LOSSES)
shapes = {
    "n": st.integers(1, 7),
    "dim": st.integers(1, 5),
    "temperature": st.floats(0.02, 5),
    "seed": st.integers(0, 10**6),
}


def check(fast, expected):
    assert fast.shape == ()
    assert fast.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


# values


def golden_views() -> torch.Tensor:
    """f[b, v] = normalize(2 sin(0.37 (8 (2b + v) + d))) for b < 5, d < 8, views first."""
    places = torch.arange(5 * 2 * 8, dtype=torch.float64).reshape(5, 2, 8)
    return normalize(2 * torch.sin(0.37 * places), dim=2).transpose(0, 1)


@pytest.mark.parametrize(("temperature", "expected"), [(0.1, 19.682308), (0.5, 4.922204)])
def test_one_sided_nt_xent_gives_the_published_codes_value(temperature, expected):
    first, second = golden_views()
    # That code ran in float32, whose steps are 2e-6 wide at 19.68.
    assert nt_xent_one_sided(first, second, temperature).item() == pytest.approx(expected, abs=4e-6)
    single = nt_xent_one_sided(first.float(), second.float(), temperature)
    assert single.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("temperature", "expected"), [(0.1, 19.671738), (0.5, 4.917771)])
def test_symmetric_nt_xent_gives_the_mean_over_both_orders(temperature, expected):
    first, second = golden_views()
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, abs=4e-6)
    orders = [(first, second), (second, first)]
    mean = sum(nt_xent_one_sided(*order, temperature) for order in orders) / 2
    assert nt_xent(first, second, temperature).item() == pytest.approx(mean.item(), abs=1e-12)


@given(**shapes)
def test_nt_xent_equals_its_slow_twin(n, dim, temperature, seed):
    first, second = unit(n, dim, seed=seed), unit(n, dim, seed=seed + 1)
    lists = first.tolist(), second.tolist()
    check(nt_xent(first, second, temperature), slow.nt_xent(*lists, temperature))
    check(
        nt_xent_one_sided(first, second, temperature), slow.nt_xent_one_sided(*lists, temperature)
    )


@given(n_views=st.integers(2, 4), decoupled=st.booleans(), **shapes)
def test_nt_xent_of_many_views_equals_its_slow_twin(n_views, decoupled, n, dim, temperature, seed):
    views = unit(n_views, n + decoupled, dim, seed=seed)
    expected = slow.nt_xent_views(views.tolist(), temperature, decoupled)
    check(nt_xent_views(views, temperature, decoupled), expected)


@given(factor=st.floats(0, 1), order=st.randoms(use_true_random=False), **shapes)
def test_n_pairs_and_guided_contrast_equal_their_slow_twins(
    factor, order, n, dim, temperature, seed
):
    first, second = unit(n, dim, seed=seed), unit(n, dim, seed=seed + 1)
    permutation = order.sample(range(n), n)
    groups = [order.randrange(-1, 3) for _ in range(n)]
    lists, o = (first.tolist(), second.tolist()), torch.tensor(permutation)
    mixed = n_pairs_mixed(first, second, o, factor, temperature)
    check(mixed, slow.n_pairs_mixed(*lists, permutation, factor, temperature))
    plain = n_pairs(first, second, temperature)
    check(plain, slow.n_pairs_mixed(*lists, permutation, 1.0, temperature))
    guided = guided_contrastive(first, second, torch.tensor(groups), o, factor, temperature)
    check(guided, slow.guided_contrastive(*lists, groups, permutation, factor, temperature))


@given(size=st.integers(0, 6), **shapes)
def test_queue_loss_equals_its_slow_twin(size, n, dim, temperature, seed):
    queries, keys, queue = unit(n, dim, seed=seed), unit(n, dim, seed=seed + 1), unit(size, dim)
    expected = slow.info_nce_queue(queries.tolist(), keys.tolist(), queue.tolist(), temperature)
    check(info_nce_queue(queries, keys, queue, temperature), expected)


@given(n_labels=st.integers(1, 6), **shapes)
def test_supervised_contrast_equals_its_slow_twin(n_labels, n, dim, temperature, seed):
    rows = unit(n, dim, seed=seed)
    labels = torch.randint(0, n_labels, (n,), generator=torch.Generator().manual_seed(seed))
    expected = slow.supervised_contrastive(rows.tolist(), labels.tolist(), temperature)
    check(supervised_contrastive(rows, labels, temperature), expected)


def test_losses_at_chance_are_the_log_of_the_number_of_candidates():
    same = unit(1, 4).expand(6, 4)
    groups, order = torch.tensor([0, 0, 1, 1, -1, -1]), torch.tensor([5, 3, 1, 0, 2, 4])
    chance = {
        nt_xent(same, same): 11,
        nt_xent(same, same, decoupled=True): 10,
        nt_xent_views(same.expand(3, 6, 4)): 16,
        nt_xent_one_sided(same, same): 11,
        n_pairs(same, same): 6,
        n_pairs_mixed(same, same, order, 0.6): 6,
        guided_contrastive(same, same, groups, order, 0.6): 6,
        info_nce_queue(same, same, same[:5]): 6,
        supervised_contrastive(same, torch.tensor([0, 0, 1, 1, 2, 3])): 5,
    }
    for loss, n_candidates in chance.items():
        assert loss.item() == pytest.approx(math.log(n_candidates), abs=1e-12)


# relations


def test_mixing_with_factor_one_is_n_pairs_and_with_zero_looks_for_the_other_image():
    first, second, order = unit(6, 4), unit(6, 4, seed=1), torch.tensor([3, 0, 1, 5, 4, 2])
    assert n_pairs_mixed(first, second, order, 1.0) == n_pairs(first, second)
    # Anchor i looks for second[o(i)]: the same as plain pairs of first and the permuted second.
    torch.testing.assert_close(
        n_pairs_mixed(first, second, order, 0.0), n_pairs(first, second[order])
    )


@given(factor=st.floats(0, 1), seed=st.integers(0, 1000))
def test_mixed_loss_is_the_convex_combination_of_both_hard_losses(factor, seed):
    first, second = unit(6, 4, seed=seed), unit(6, 4, seed=seed + 1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    ends = n_pairs(first, second), n_pairs(first, second[order])
    mixed = n_pairs_mixed(first, second, order, factor)
    torch.testing.assert_close(mixed, factor * ends[0] + (1 - factor) * ends[1])


def test_guided_contrast_without_shared_groups_is_i_mix():
    first, second, order = unit(5, 4), unit(5, 4, seed=1), torch.tensor([1, 2, 0, 4, 3])
    mixed = n_pairs_mixed(first, second, order, 0.7)
    for groups in (torch.arange(5), torch.full((5,), -1), torch.tensor([0, -1, -1, 2, -2])):
        assert guided_contrastive(first, second, groups, order, 0.7) == mixed


def test_guided_contrast_of_one_group_is_the_mean_over_all_pairs():
    first, second, order = unit(5, 4), unit(5, 4, seed=1), torch.tensor([1, 2, 0, 4, 3])
    one_group = torch.zeros(5, dtype=torch.int64)
    loss = guided_contrastive(first, second, one_group, order, 0.7, temperature=0.2)
    torch.testing.assert_close(loss, -(first @ second.T / 0.2).log_softmax(1).mean())


def test_foreign_images_share_positives_within_their_own_group_only():
    classes = torch.tensor([0, 1, 1, 0, 1, 0])
    foreign = torch.tensor([False, False, True, True, True, True])
    groups = contrast_groups(classes, foreign, torch.tensor([0, -1, 1, 1, -1, -1]), n_classes=2)
    assert groups.tolist() == [0, 1, 3, 3, -1, -1]  # a group of an image not foreign is ignored
    # The gradient with respect to the similarities' targets: read from the soft loss itself.
    rows = torch.eye(6, dtype=torch.float64)
    expected = torch.eye(6, dtype=torch.float64)
    expected[2, 3] = expected[3, 2] = 1
    identity = torch.arange(6)
    assert guided_contrastive(rows, rows, groups, identity, 1.0) == soft_n_pairs(
        rows, rows, expected
    )


def test_mixed_targets_weigh_the_rows_of_both_images():
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    mixed = mixed_targets(targets, torch.tensor([1, 0]), 0.75)
    torch.testing.assert_close(mixed, torch.tensor([[0.875, 0.125], [0.625, 0.375]]))


def test_anchors_without_a_positive_leave_the_supervised_mean():
    rows = unit(5, 4)
    alone = supervised_contrastive(rows, torch.tensor([0, 0, 1, 2, 3]))
    log_p = (rows @ rows.T / 0.1).fill_diagonal_(-torch.inf).log_softmax(1)
    torch.testing.assert_close(alone, -(log_p[0, 1] + log_p[1, 0]) / 2)


@pytest.mark.parametrize("n", [1, 4])
def test_supervised_contrast_without_any_positive_is_zero_with_zero_gradient(n):
    rows = unit(n, 4).requires_grad_()
    loss = supervised_contrastive(rows, torch.arange(n))
    loss.backward()
    assert loss.item() == 0
    assert rows.grad.tolist() == torch.zeros(n, 4).tolist()


def test_supervised_contrast_of_two_views_with_images_as_labels_is_nt_xent():
    first, second = unit(4, 6), unit(4, 6, seed=1)
    labels = torch.arange(4).repeat(2)
    supervised = supervised_contrastive(torch.cat([first, second]), labels, 0.1)
    torch.testing.assert_close(supervised, nt_xent(first, second, 0.1))


def test_each_view_of_another_image_is_a_negative_and_a_third_view_is_not():
    # Two images at a right angle, their V views alike: one positive of e, V negatives of 1.
    views = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    three = nt_xent_views(views, temperature=1.0).item()
    assert three == pytest.approx(math.log(1 + 3 / math.e))
    assert nt_xent_views(views[:2], temperature=1.0).item() == pytest.approx(
        math.log(1 + 2 / math.e)
    )


def test_decoupled_loss_keeps_its_gradient_for_easy_positives():
    # Two images at a right angle, views alike: the coupled gradient has all but vanished.
    rows = torch.eye(2, dtype=torch.float64).requires_grad_()
    norms = []
    for decoupled in (False, True):
        loss = nt_xent(rows, rows.detach(), 0.1, decoupled=decoupled)
        norms.append(torch.autograd.grad(loss, rows)[0].norm().item())
    assert norms[1] > 1000 * norms[0]


@each_loss
def test_losses_do_not_depend_on_the_order_of_the_batch(name):
    first, second = unit(6, 4), unit(6, 4, seed=1)
    order, mixing = torch.tensor([4, 2, 0, 5, 1, 3]), torch.tensor([1, 2, 3, 4, 5, 0])
    place = torch.argsort(order)
    groups, queue = torch.tensor([0, 1, 0, -1, -1, 1]), unit(5, 4, seed=2)

    def loss(a, b, groups, mixing):
        return {
            "n_pairs_mixed": lambda: n_pairs_mixed(a, b, mixing, 0.7),
            "guided": lambda: guided_contrastive(a, b, groups, mixing, 0.7),
            "supervised": lambda: supervised_contrastive(torch.cat([a, b]), groups.repeat(2)),
            "info_nce_queue": lambda: info_nce_queue(a, b, queue),
        }.get(name, lambda: every_loss(6)[name](a, b, 0.2))()

    # Image order[i] is now at i, so what was mixed into it is now at place[mixing[order[i]]].
    moved = loss(first[order], second[order], groups[order], place[mixing[order]])
    torch.testing.assert_close(moved, loss(first, second, groups, mixing))


# numbers at the edge


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_only_the_rounding_of_the_projections(name, dtype):
    first, second = unit(64, 4, dtype=dtype), unit(64, 4, seed=1, dtype=dtype)
    loss = every_loss(64)[name]
    half = loss(first, second, 0.1)
    assert half.dtype == torch.float32
    exact = loss(first.double(), second.double(), 0.1)
    assert half.item() == pytest.approx(exact.item(), rel=1e-5)
    # Against projections never rounded: half a unit of bfloat16 is 0.2 % of a similarity.
    assert half.item() == pytest.approx(
        loss(unit(64, 4), unit(64, 4, seed=1), 0.1).item(), rel=0.01
    )


@each_loss
def test_autocast_leaves_the_similarities_and_their_gradient_in_float32(name):
    loss = every_loss(16)[name]
    results = []
    for enabled in (False, True):
        first, second = unit(16, 4, dtype=torch.float32).requires_grad_(), unit(16, 4, seed=1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = loss(first, second.float(), 0.01)
        value.backward()
        results.append((value.detach(), first.grad))
    assert results[1][0].dtype == torch.float32
    assert results[0][0] == results[1][0]
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-6, atol=0)


@each_loss
def test_losses_stay_finite_and_exact_at_400_logits(name):
    # Antipodes at temperature 1/400: logits of +400 and -400; exp(400) overflows float32.
    first = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, -1.0, 0, 0]])
    second = first[[1, 0, 3, 2]]
    loss = every_loss(4)[name]
    anchors = first.clone().requires_grad_()
    single = loss(anchors, second, 1 / 400)
    single.backward()
    assert single.item() == pytest.approx(
        loss(first.double(), second.double(), 1 / 400).item(), rel=1e-5
    )
    assert anchors.grad.isfinite().all()
    assert anchors.grad.abs().max() > 1  # certain and wrong: it must be able to turn round


@each_loss
@pytest.mark.parametrize("rows", ["identical", "zero"])
def test_identical_and_zero_rows_give_finite_losses_and_gradients(name, rows):
    row = torch.zeros(4) if rows == "zero" else unit(4, dtype=torch.float32)
    first, second = (row.repeat(5, 1).requires_grad_() for _ in range(2))
    loss = every_loss(5)[name](first, second, 0.01)
    loss.backward()
    assert loss.isfinite()
    assert first.grad.isfinite().all()


@each_loss
def test_a_batch_of_one_image_has_a_stated_result(name):
    first, second = unit(1, 4).requires_grad_(), unit(1, 4, seed=1)
    loss = every_loss(1)[name]
    if name == "decoupled":
        with pytest.raises(DataError, match="got one image; it needs two"):
            loss(first, second, 0.1)
        return
    value = loss(first, second, 0.1)
    value.backward()
    assert first.grad.isfinite().all()
    # Nothing to tell it from: no loss. Only a queue knows of other rows.
    if name == "info_nce_queue":
        assert info_nce_queue(first, second, unit(0, 4)).item() == 0
    else:
        assert value.item() == 0


@each_loss
def test_gradients_are_those_of_finite_differences(name):
    loss = every_loss(4)[name]
    first, second = unit(4, 4).requires_grad_(), unit(4, 4, seed=1)
    second.requires_grad_(name != "info_nce_queue")  # keys are the momentum encoder's
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, 0.3), (first, second))


def test_keys_and_queue_get_no_gradient():
    queries, keys, queue = (unit(4, 4, seed=i).requires_grad_() for i in range(3))
    info_nce_queue(queries, keys, queue).backward()
    assert queries.grad.abs().sum() > 0
    assert keys.grad is None
    assert queue.grad is None


# what a caller can do wrong


@each_loss
@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_temperatures_not_above_zero_are_refused(name, temperature):
    with pytest.raises(ConfigError, match=r"temperature is .*; expected a number above 0"):
        every_loss(3)[name](unit(3, 4), unit(3, 4), temperature)


@each_loss
def test_an_empty_batch_is_refused(name):
    with pytest.raises(DataError, match=r"\(.*0, 4\).* expected \(B, P\) of B >= 1 images"):
        every_loss(0)[name](unit(0, 4), unit(0, 4), 0.1)


def test_views_of_different_shapes_are_refused():
    with pytest.raises(DataError, match=r"are \(3, 4\) and \(2, 4\); expected one shape"):
        n_pairs(unit(3, 4), unit(2, 4))
    with pytest.raises(DataError, match=r"views is \(1, 3, 4\); expected .* V >= 2 views"):
        nt_xent_views(unit(1, 3, 4))


def test_targets_labels_groups_and_permutations_of_another_length_are_refused():
    rows, two = unit(3, 4), torch.arange(2)
    with pytest.raises(DataError, match=r"targets is \(3, 2\); expected \(3, 3\)"):
        soft_n_pairs(rows, rows, torch.ones(3, 2))
    with pytest.raises(DataError, match=r"labels is \(2,\); expected \(3,\)"):
        supervised_contrastive(rows, two)
    with pytest.raises(DataError, match=r"groups is \(2,\); expected \(3,\)"):
        guided_contrastive(rows, rows, two, torch.arange(3), 0.7)
    with pytest.raises(DataError, match=r"permutation is \(2,\); expected \(3,\)"):
        n_pairs_mixed(rows, rows, two, 0.7)


@pytest.mark.parametrize("factor", [-0.1, 1.1, math.nan])
def test_mixing_factors_outside_0_to_1_are_refused(factor):
    with pytest.raises(ConfigError, match=r"factor is .*; expected the share of an image"):
        n_pairs_mixed(unit(3, 4), unit(3, 4), torch.arange(3), factor)
