"""The slow encoder, and batch norm by groups: ordinary batch norm on slices, and no hints."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labelsieve.errors import ConfigError, DataError
from labelsieve.features.momentum import (
    GroupedBatchNorm,
    MomentumEncoder,
    average_statistics,
    exchange,
    group_batch_norms,
    restore,
    update_momentum,
)


class Share:
    """One of several pretended processes; what they gather is made beforehand."""

    def __init__(self, rank: int, n_processes: int, everything: torch.Tensor) -> None:
        self.rank, self.n_processes, self.everything = rank, n_processes, everything

    def gather_detached(self, rows: torch.Tensor) -> torch.Tensor:
        n = len(rows)
        assert torch.equal(rows, self.everything[self.rank * n : (self.rank + 1) * n])
        return self.everything.detach()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5),
        nn.Sequential(nn.BatchNorm1d(5)),
    )  # fmt: skip


# the slow encoder


def test_momentum_update_blends_parameters_and_copies_buffers():
    slow, fast = network(), network()
    for parameter in fast.parameters():
        nn.init.constant_(parameter, 3.0)
    fast[1].running_mean.fill_(7.0)
    fast[1].num_batches_tracked.fill_(9)
    before = copy.deepcopy(slow)
    update_momentum(slow, fast, 0.75)
    for ours, old in zip(slow.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, 0.75 * old + 0.25 * 3.0)
    assert slow[1].running_mean.tolist() == [7.0] * 4
    assert slow[1].num_batches_tracked.item() == 9


def test_momentum_zero_is_a_copy_and_many_steps_arrive_at_a_source_that_stands_still():
    slow, fast = MomentumEncoder(nn.Linear(2, 2), 0.9), nn.Linear(2, 2)
    distances = [(slow.encoder.weight - fast.weight).norm().item()]
    for _ in range(20):
        slow.follow(fast)
        distances.append((slow.encoder.weight - fast.weight).norm().item())
    assert distances[-1] == pytest.approx(0.9**20 * distances[0], rel=1e-4)
    update_momentum(slow.encoder, fast, 0.0)
    assert torch.equal(slow.encoder.weight, fast.weight)


def test_momentum_encoder_is_a_copy_without_gradients():
    source = network()
    slow = MomentumEncoder(source)
    images = torch.randn(4, 3, 5, 5)
    assert torch.equal(slow(images), source(images))
    assert not slow(images).requires_grad
    assert not any(parameter.requires_grad for parameter in slow.parameters())
    assert all(parameter.requires_grad for parameter in source.parameters())


def test_momentum_update_refuses_other_networks_and_momenta():
    with pytest.raises(DataError, match="has 2 parameters and 0 buffers, the slow one 2 and 0, or"):
        update_momentum(nn.Linear(2, 2), nn.Linear(3, 2), 0.9)
    with pytest.raises(DataError, match="has 1 parameters and 0 buffers, the slow one 2 and 0"):
        update_momentum(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.9)
    for momentum in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"momentum is .*; expected a number in \[0, 1\)"):
            MomentumEncoder(nn.Linear(2, 2), momentum)


# batch norm by groups


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)])
def test_each_group_is_normalized_as_ordinary_batch_norm_would_alone(shape):
    images = torch.randn(12, *shape) * 3 + 1
    ours = GroupedBatchNorm(5, group_size=4)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    plain = nn.BatchNorm1d(5) if len(shape) == 1 else nn.BatchNorm2d(5)
    results, statistics = [], []
    for start in (0, 4, 8):
        alone = copy.deepcopy(plain)
        alone.load_state_dict(ours.state_dict())
        results.append(alone(images[start : start + 4]))
        statistics.append(alone.state_dict())
    torch.testing.assert_close(ours(images), torch.cat(results))
    # The running statistics: the mean of what each group alone would have made of them.
    for name in ("running_mean", "running_var"):
        mean = torch.stack([state[name] for state in statistics]).mean(0)
        torch.testing.assert_close(getattr(ours, name), mean)
    assert ours.num_batches_tracked.item() == 1


def test_gradients_through_groups_are_those_of_finite_differences():
    layer = GroupedBatchNorm(2, group_size=3).double()
    images = torch.randn(6, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (images,))


def test_running_statistics_are_right_for_evaluation():
    torch.manual_seed(0)
    layer = GroupedBatchNorm(1, group_size=4)
    for _ in range(300):  # the variance within groups of 4, unbiased, is that of the images
        layer(torch.randn(64, 1) * 3 + 10)
    assert layer.running_mean.item() == pytest.approx(10, abs=0.2)
    assert layer.running_var.item() == pytest.approx(9, rel=0.1)
    layer.eval()
    values = layer(torch.tensor([[10.0], [13.0]])).flatten()  # any number of images
    torch.testing.assert_close(values, torch.tensor([0.0, 1.0]), atol=0.1, rtol=0)


def test_a_group_does_not_see_the_other_groups():
    layer, images = GroupedBatchNorm(3, group_size=4), torch.randn(8, 3)
    changed = images.clone()
    changed[4:] *= 100
    assert torch.equal(layer(images)[:4], layer(changed)[:4])
    changed[1] += 1
    assert not torch.equal(layer(images)[:4], layer(changed)[:4])


def test_grouping_keeps_channels_last_and_bfloat16():
    layer = GroupedBatchNorm(4, group_size=2)
    images = torch.randn(4, 4, 3, 3).to(torch.bfloat16, memory_format=torch.channels_last)
    normalized = layer(images)
    assert normalized.dtype == torch.bfloat16
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    assert layer.running_mean.dtype == torch.float32
    exact = GroupedBatchNorm(4, group_size=2)(images.float())
    torch.testing.assert_close(normalized.float(), exact, atol=0.02, rtol=0)


def test_batches_that_do_not_split_into_groups_are_refused_in_training_alone():
    layer = GroupedBatchNorm(3, group_size=4)
    for n in (6, 0):
        with pytest.raises(ConfigError, match=f"got {n} images, to be normalized in groups of 4"):
            layer(torch.randn(n, 3))
    assert layer.eval()(torch.randn(6, 3)).shape == (6, 3)
    with pytest.raises(ConfigError, match="group_size is 1; expected 2 or more"):
        GroupedBatchNorm(3, group_size=1)


def test_a_network_with_grouped_norms_has_the_same_state_and_evaluation():
    plain = network().train()
    plain(torch.randn(8, 3, 5, 5))
    grouped = group_batch_norms(copy.deepcopy(plain), group_size=4)
    assert isinstance(grouped[1], GroupedBatchNorm)
    assert isinstance(grouped[5][0], GroupedBatchNorm)
    assert not any(
        isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in grouped.modules()
    )
    assert plain.state_dict().keys() == grouped.state_dict().keys()
    images = torch.randn(3, 3, 5, 5)
    assert torch.equal(plain.eval()(images), grouped.eval()(images))
    assert isinstance(group_batch_norms(nn.BatchNorm2d(3).eval(), 4), GroupedBatchNorm)
    assert not group_batch_norms(nn.BatchNorm2d(3).eval(), 4).training


def test_batch_norms_without_weights_or_running_average_are_not_grouped():
    for layer in (nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)):
        with pytest.raises(ConfigError, match="has no weights or no running average"):
            group_batch_norms(nn.Sequential(layer), 4)


def test_statistics_averaged_over_shares_of_the_batch_are_those_of_the_whole():
    whole = group_batch_norms(network(), group_size=2)
    shares = [copy.deepcopy(whole) for _ in range(2)]
    for _ in range(3):
        images = torch.randn(8, 3, 5, 5)
        whole(images)
        for share, part in zip(shares, images.chunk(2), strict=True):
            share(part)
    others: list[torch.Tensor] = []
    average_statistics(shares[1], lambda values: others.append(values) or values)
    average_statistics(shares[0], lambda values: (values + others[0]) / 2)
    for ours, theirs in zip(shares[0].buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    average_statistics(nn.Linear(2, 2), lambda _: pytest.fail("nothing to send"))


# keys in another order


@given(
    n_processes=st.integers(1, 4), share=st.integers(1, 5), draws=st.randoms(use_true_random=False)
)
def test_exchange_and_restore_give_the_batch_in_its_own_order(n_processes, share, draws):
    n = n_processes * share
    batch = torch.randint(0, 255, (n, 2), generator=torch.Generator().manual_seed(0))
    order = torch.tensor(draws.sample(range(n), n))
    exchanged = [
        exchange(batch[r * share : (r + 1) * share], order, Share(r, n_processes, batch))
        for r in range(n_processes)
    ]
    assert torch.equal(torch.cat(exchanged), batch[order])
    keys = torch.cat(exchanged) * 2
    for r in range(n_processes):
        restored = restore(exchanged[r] * 2, order, Share(r, n_processes, keys))
        assert torch.equal(restored, batch * 2)


def test_keys_in_their_own_order_do_not_depend_on_the_number_of_processes():
    torch.manual_seed(0)
    encoder = group_batch_norms(network(), group_size=2)
    images, order = torch.randn(8, 3, 5, 5), torch.tensor([3, 6, 0, 7, 1, 2, 5, 4])
    whole = restore(encoder(images[order]).detach(), order, Share(0, 1, encoder(images[order])))
    parts = [copy.deepcopy(encoder)(part).detach() for part in images[order].chunk(2)]
    for rank, part in enumerate(parts):
        torch.testing.assert_close(restore(part, order, Share(rank, 2, torch.cat(parts))), whole)
    # Without another order, an image shares its statistics with the same images in both views.
    assert not torch.allclose(whole, encoder(images).detach())


def test_an_order_of_another_length_is_refused():
    with pytest.raises(DataError, match=r"order is of 3 images; the batch has 2 on each of 2"):
        exchange(torch.zeros(2, 1), torch.arange(3), Share(0, 2, torch.zeros(4, 1)))
