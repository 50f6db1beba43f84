"""The filter around losses and miners of other libraries: what it leaves is what they see."""

from __future__ import annotations

import ast
import copy
import importlib.util
import io
import math
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import reference_adapters as reference
from labelsieve.errors import ConfigError, DataError
from labelsieve.loop.runtime import Runtime
from labelsieve.methods.prism import adapters, index_tuples, wrapped
from labelsieve.methods.prism.adapters import CleanMiner, CleanTripletsMiner, FilteredLoss
from labelsieve.methods.prism.filter import CleanFilter, Filter
from processes import together

pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.utils import distributed as pml_distributed

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "metric-learning-libraries.md"
N_CLASSES, DIM = 6, 8
CENTERS = np.random.default_rng(99).standard_normal((N_CLASSES, DIM))
PML_2 = pytest.mark.skipif(
    int(metadata.version("pytorch-metric-learning").split(".")[0]) > 2, reason="mended since"
)


class Batch(NamedTuple):
    rows: torch.Tensor  # (24, D), four of each class
    labels: torch.Tensor
    wrong: torch.Tensor


def batch(seed, noise_rate=0.3):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(N_CLASSES), 4)
    rows = CENTERS[truth] + 0.4 * rng.standard_normal((len(truth), DIM))
    wrong = rng.random(len(truth)) < noise_rate
    labels = (truth + wrong * rng.integers(1, N_CLASSES, len(truth))) % N_CLASSES
    rows = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    return Batch(rows, torch.from_numpy(labels), torch.from_numpy(wrong))


def a_filter(memory_size=200, classes=N_CLASSES, dim=DIM):
    """Fresh: it keeps all."""
    return CleanFilter(classes, dim, memory_size, Filter(noise_rate=0.3, window=1))


def knowing_filter(memory_size=200):
    """It has seen clean rows of all classes."""
    clean = a_filter(memory_size)
    for seed in (100, 101):
        rows, labels, _ = batch(seed, noise_rate=0)
        clean.update(rows.detach(), labels)
    return clean


def kept_by(clean, rows, labels):
    """What a filter keeps, which then learns of it; as one would write it by hand."""
    keep = clean(rows.detach(), labels)
    clean.update(rows.detach(), labels, keep)
    assert 0 < keep.sum() < len(keep)  # else the test would show nothing
    return keep


def gradients(value, rows, loss):
    asked = [rows, *(loss.parameters() if isinstance(loss, nn.Module) else [])]
    found = torch.autograd.grad(value, asked, allow_unused=True)
    return [torch.zeros_like(of) if g is None else g for of, g in zip(asked, found, strict=True)]


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other)


# A loss around which the filter stands is the loss of the rows it keeps


CASES = {
    "contrastive": (losses.ContrastiveLoss, None),
    "triplets": (
        lambda: losses.TripletMarginLoss(margin=1.0),
        lambda: miners.TripletMarginMiner(margin=1.0),
    ),
    "multi-similarity": (losses.MultiSimilarityLoss, lambda: miners.MultiSimilarityMiner(1.0)),
    "info-nce": (losses.NTXentLoss, None),
    "soft-triple": (lambda: losses.SoftTripleLoss(N_CLASSES, DIM, 2), None),
    "arc-face": (lambda: losses.ArcFaceLoss(N_CLASSES, DIM), None),
    "memory": (lambda: losses.CrossBatchMemory(losses.ContrastiveLoss(), DIM, 40), None),
    "memory-miner": (
        lambda: losses.CrossBatchMemory(
            losses.TripletMarginLoss(margin=1.0), DIM, 40, miner=miners.TripletMarginMiner(1.0)
        ),
        None,
    ),
    "plain": (lambda: lambda rows, labels: (rows.norm(dim=1) * labels).mean(), None),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_filtering_by_hand(case):
    torch.manual_seed(0)
    make, make_miner = CASES[case]
    loss, miner, clean = make(), make_miner and make_miner(), knowing_filter()
    by_hand, twin = copy.deepcopy(loss), copy.deepcopy(clean)
    filtered = FilteredLoss(loss, clean, miner=miner)
    for seed in range(4):  # as a queue of 40 has then gone around
        rows, labels, _ = batch(seed)
        keep = kept_by(twin, rows, labels)
        mined = [miner(rows[keep], labels[keep])] if miner else []
        expected = by_hand(rows[keep], labels[keep], *mined)
        value = filtered(rows, labels)
        torch.testing.assert_close(value, expected)
        assert value > 0
        assert_same(gradients(value, rows, filtered.loss), gradients(expected, rows, by_hand))
        assert clean.last.keep.equal(keep)


def test_rejected_rows_get_no_gradient_and_wrong_ones_are_rejected():
    clean = knowing_filter()
    filtered, n_wrong, n_found = FilteredLoss(losses.ContrastiveLoss(), clean), 0, 0
    for seed in range(10):
        rows, labels, wrong = batch(seed)
        filtered(rows, labels).backward()
        assert (rows.grad[~clean.last.keep] == 0).all()
        n_wrong, n_found = n_wrong + int(wrong.sum()), n_found + int(wrong[~clean.last.keep].sum())
    assert n_found > 0.8 * n_wrong


def test_labels_may_be_any_numbers():
    names = torch.tensor([1, 4, 70, 71, 500, 9000])
    rows, labels, _ = batch(0)
    first, second = a_filter(), a_filter(classes=names.tolist())
    one, other = (FilteredLoss(losses.ContrastiveLoss(), f, 0.5) for f in (first, second))
    for seed in range(3):
        rows, labels, _ = batch(seed)
        torch.testing.assert_close(one(rows, labels), other(rows, names[labels]))
    assert first.last.keep.equal(second.last.keep)
    assert not first.last.keep.all()


def test_nothing_is_filtered_in_evaluation_mode():
    clean = knowing_filter()
    filtered = FilteredLoss(losses.ContrastiveLoss(), clean).eval()
    before = copy.deepcopy(clean.state_dict())
    rows, labels, _ = batch(0)
    foreign = labels + 1000  # classes held out
    torch.testing.assert_close(filtered(rows, foreign), losses.ContrastiveLoss()(rows, foreign))
    assert_same(list(before.values()), list(clean.state_dict().values()))


@pytest.mark.parametrize("make", [losses.ContrastiveLoss, CASES["arc-face"][0], CASES["memory"][0]])
def test_a_batch_of_which_nothing_is_kept_costs_nothing(make):
    filtered = FilteredLoss(make(), knowing_filter())
    before = copy.deepcopy(filtered.loss.state_dict())
    rows, labels, _ = batch(0)
    with torch.no_grad():
        rows[3] = math.nan
    value = filtered(rows, torch.full_like(labels, -1))
    value.backward()
    assert value.item() == 0
    assert (rows.grad == 0).all()
    assert_same(list(before.values()), list(filtered.loss.state_dict().values()))


def test_rows_that_are_not_finite_do_not_reach_the_loss():
    filtered = FilteredLoss(losses.ContrastiveLoss(), a_filter())
    rows, labels, _ = batch(0)
    with torch.no_grad():
        rows[3], rows[5, 2] = math.nan, math.inf
    value = filtered(rows, labels)
    value.backward()
    assert value.isfinite()
    assert rows.grad.isfinite().all()
    assert (rows.grad[[3, 5]] == 0).all()


def test_the_weight_of_the_memory_adds_the_loss_against_rows_of_earlier_batches():
    clean, inner = knowing_filter(), losses.ContrastiveLoss()
    twin = copy.deepcopy(clean)
    filtered = FilteredLoss(inner, clean, memory_weight=0.7)
    for seed in range(3):
        rows, labels, _ = batch(seed)
        references = twin.memory()  # before it learns of this batch
        keep = kept_by(twin, rows, labels)
        expected = inner(rows[keep], labels[keep]) + 0.7 * inner(
            rows[keep], labels[keep], ref_emb=references[0], ref_labels=references[1]
        )
        value = filtered(rows, labels)
        torch.testing.assert_close(value, expected)
        assert_same(gradients(value, rows, inner), gradients(expected, rows, inner))


def test_an_empty_memory_adds_nothing():
    rows, labels, _ = batch(0)
    value = FilteredLoss(losses.ContrastiveLoss(), a_filter(), memory_weight=1)(rows, labels)
    torch.testing.assert_close(value, losses.ContrastiveLoss()(rows, labels))


# References of the user


def test_references_that_are_the_batch_itself_are_no_references():
    clean = knowing_filter()
    one = FilteredLoss(losses.NTXentLoss(), clean)
    other = copy.deepcopy(one)
    rows, labels, _ = batch(0)
    torch.testing.assert_close(
        one(rows, labels), other(rows, labels, ref_emb=rows, ref_labels=labels)
    )


def test_references_are_filtered_too_and_do_not_enter_the_memory():
    clean, inner = knowing_filter(), losses.ContrastiveLoss()
    twin, filtered = copy.deepcopy(clean), FilteredLoss(inner, clean)
    (rows, labels, _), (others, other_labels, _) = batch(0), batch(1)
    both = twin(torch.cat([rows, others]).detach(), torch.cat([labels, other_labels]))
    keep, ref_keep = both[:24], both[24:]
    assert 0 < ref_keep.sum() < 24
    pairs = inner_pairs = miners.PairMarginMiner()(rows, labels, others, other_labels)
    inner_pairs = index_tuples.renumbered(pairs, keep, ref_keep)
    expected = inner(
        rows[keep], labels[keep], inner_pairs, others[ref_keep], other_labels[ref_keep]
    )
    torch.testing.assert_close(filtered(rows, labels, pairs, others, other_labels), expected)
    n_before = 48
    assert len(clean.memory()[0]) == n_before + int(keep.sum())


# Pairs and triplets of the user


class Pairs(NamedTuple):  # as version 3 has them
    pos_anchors: torch.Tensor
    positives: torch.Tensor
    neg_anchors: torch.Tensor
    negatives: torch.Tensor


@pytest.mark.parametrize("form", [tuple, lambda pairs: Pairs(*pairs), list, "int32"])
def test_pairs_of_the_whole_batch_stay_where_both_rows_do(form):
    clean, inner = knowing_filter(), losses.ContrastiveLoss()
    twin, filtered = copy.deepcopy(clean), FilteredLoss(inner, clean)
    rows, labels, _ = batch(0)
    pairs = miners.PairMarginMiner()(rows, labels)
    keep = kept_by(twin, rows, labels)
    a, p, b, n = pairs
    both, apart = keep[a] & keep[p], keep[b] & keep[n]
    assert 0 < both.sum() < len(both)
    expected = inner(rows, labels, (a[both], p[both], b[apart], n[apart]))  # rows as they were
    given = tuple(part.int() for part in pairs) if form == "int32" else form(pairs)
    value = filtered(rows, labels, given)
    torch.testing.assert_close(value, expected)
    assert_same(gradients(value, rows, inner), gradients(expected, rows, inner))


def test_triplets_of_the_whole_batch_stay_where_all_three_rows_do():
    clean, inner = knowing_filter(), losses.TripletMarginLoss(margin=0.5)
    twin, filtered = copy.deepcopy(clean), FilteredLoss(inner, clean)
    rows, labels, _ = batch(0)
    triplets = miners.TripletMarginMiner(margin=0.5)(rows, labels)
    keep = kept_by(twin, rows, labels)
    stay = keep[torch.stack(triplets)].all(dim=0)
    assert 0 < stay.sum() < len(stay)
    expected = inner(rows, labels, tuple(part[stay] for part in triplets))
    torch.testing.assert_close(filtered(rows, labels, triplets), expected)


@given(st.data(), st.sampled_from([3, 4]))
def test_indices_into_the_rows_kept_name_the_same_rows(data, n_parts):
    keep = data.draw(st.lists(st.booleans(), min_size=1, max_size=7))
    ref_keep = data.draw(st.lists(st.booleans(), min_size=1, max_size=7))
    own, other = st.integers(0, len(keep) - 1), st.integers(0, len(ref_keep) - 1)
    if n_parts == 3:
        found = data.draw(st.lists(st.tuples(own, other, other), max_size=9))
        indices = [list(column) for column in zip(*found, strict=True)] or [[], [], []]
    else:
        indices = []
        for _ in range(2):
            found = data.draw(st.lists(st.tuples(own, other), max_size=9))
            indices += [list(column) for column in zip(*found, strict=True)] or [[], []]
    tensors = tuple(torch.tensor(part, dtype=torch.int64) for part in indices)
    result = index_tuples.renumbered(tensors, torch.tensor(keep), torch.tensor(ref_keep))
    assert [part.tolist() for part in result] == reference.renumbered(indices, keep, ref_keep)
    back = index_tuples.numbered(
        result, torch.tensor(keep).nonzero().flatten(), torch.tensor(ref_keep).nonzero().flatten()
    )
    assert all(set(b.tolist()) <= set(given) for b, given in zip(back, indices, strict=True))


@given(st.lists(st.integers(0, 3), max_size=6), st.none() | st.lists(st.integers(0, 3), max_size=6))
def test_all_pairs_are_all_pairs(labels, ref_labels):
    others = None if ref_labels is None else torch.tensor(ref_labels, dtype=torch.int64)
    a, p, b, n = index_tuples.all_pairs(torch.tensor(labels, dtype=torch.int64), others)
    same, apart = reference.all_pairs(labels, ref_labels)
    assert list(zip(a.tolist(), p.tolist(), strict=True)) == same
    assert list(zip(b.tolist(), n.tolist(), strict=True)) == apart


# CrossBatchMemory


class TripletMarginLoss(nn.Module):
    """Under a name that CrossBatchMemory takes; keeps what it is given."""

    def forward(self, rows, labels, indices, ref_rows, ref_labels):
        self.seen = SimpleNamespace(
            rows=rows, labels=labels, indices=indices, ref_rows=ref_rows, ref_labels=ref_labels
        )
        return rows.sum() * 0


def test_indices_of_the_user_name_the_same_rows_in_the_queue():
    clean, spy = knowing_filter(), TripletMarginLoss()
    filtered = FilteredLoss(losses.CrossBatchMemory(spy, DIM, 50), clean)
    for seed in range(6):  # the queue is full after the third and wraps
        rows, labels, _ = batch(seed)
        filtered(rows, labels, miners.TripletMarginMiner(1.0)(rows, labels))
        given = index_tuples.renumbered(
            miners.TripletMarginMiner(1.0)(rows, labels), clean.last.keep, clean.last.keep
        )
        n = len(given[0])
        assert n > 3
        kept = rows[clean.last.keep]
        a, p, _, _ = spy.seen.indices
        assert_same(
            [spy.seen.rows[a[-n:]], spy.seen.ref_rows[p[-n:]]], [kept[i] for i in given[:2]]
        )
        assert spy.seen.labels[a].equal(spy.seen.ref_labels[p])


def test_one_row_kept_is_not_its_own_positive():
    filtered = FilteredLoss(losses.CrossBatchMemory(losses.NTXentLoss(), DIM, 40), a_filter())
    rows, labels, _ = batch(0, noise_rate=0)
    filtered(rows, labels)
    place = filtered.loss.queue_idx
    value = filtered(rows[:1], labels[:1])
    value.backward()
    assert value.item() == 0
    assert filtered.loss.queue_idx == place


@PML_2
def test_what_the_page_says_of_bugs_in_version_2_holds():
    empty = losses.CrossBatchMemory(losses.ContrastiveLoss(), DIM, 40)
    with pytest.raises(IndexError):
        empty(torch.zeros(0, DIM), torch.zeros(0, dtype=torch.int64))
    assert empty.has_been_filled  # with zeros
    spy = TripletMarginLoss()
    memory = losses.CrossBatchMemory(spy, DIM, 40)
    rows, labels, _ = batch(0)
    memory(rows, labels)
    memory(rows[:1], labels[:1])
    assert 24 in spy.seen.indices[1]  # its own place
    batch_rows = torch.tensor([0]), torch.tensor([1]), torch.tensor([2])
    memory(rows, labels, batch_rows)
    assert spy.seen.indices[1][-1] == 1  # not where the batch is, which is at 25
    assert set(memory.state_dict()) == {"embedding_memory", "label_memory"}
    assert losses.ArcFaceLoss(3, DIM)(rows[:0], labels[:0]).isnan()


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)  # with weights only, which is the default


@pytest.mark.parametrize("case", ["soft-triple", "memory", "plain"])
def test_a_loss_that_was_saved_goes_on_as_one_that_was_not(case):
    torch.manual_seed(0)
    make = CASES[case][0]
    filtered = FilteredLoss(make(), a_filter(60), miner=None)
    for seed in range(5):
        filtered(*batch(seed)[:2])
    later = FilteredLoss(make(), a_filter(60))
    later.load_state_dict(saved_and_loaded(filtered.state_dict()))
    for seed in range(5, 8):
        rows, labels, _ = batch(seed)
        torch.testing.assert_close(later(rows, labels), filtered(rows, labels), rtol=0, atol=0)
        assert later.filter.last.keep.equal(filtered.filter.last.keep)
    assert not later.filter.last.keep.all()


# CleanMiner


@pytest.mark.parametrize("inner", [
    None, miners.MultiSimilarityMiner(1.0), miners.BatchHardMiner(), miners.TripletMarginMiner(1.0),
    lambda rows, labels: Pairs(*index_tuples.all_pairs(labels)),
])  # fmt: skip
def test_mined_rows_are_rows_of_the_whole_batch_and_were_kept(inner):
    clean = knowing_filter()
    twin, mine = copy.deepcopy(clean), CleanMiner(clean, inner)
    for seed in range(3):
        rows, labels, _ = batch(seed)
        found = mine(rows, labels)
        keep = kept_by(twin, rows, labels)
        assert clean.last.keep.equal(keep)
        assert type(found) is tuple
        assert keep[torch.cat(found)].all()
        assert labels[found[0]].equal(labels[found[1]])
        assert (labels[found[-2 if len(found) == 4 else 0]] != labels[found[-1]]).all()
        own = (inner or (lambda _, labels: index_tuples.all_pairs(labels)))(
            rows[keep], labels[keep]
        )
        assert len(own[0]) > 0
        assert all(f.equal(keep.nonzero().flatten()[o]) for f, o in zip(found, own, strict=True))


def test_a_miner_that_judges_each_triplet_by_itself_loses_those_with_a_rejected_row():
    clean, inner = knowing_filter(), miners.TripletMarginMiner(margin=0.4)
    rows, labels, _ = batch(0)
    found = torch.stack(CleanMiner(clean, inner)(rows, labels)).T.tolist()
    everything = torch.stack(inner(rows, labels)).T.tolist()
    keep = clean.last.keep
    assert sorted(found) == sorted(t for t in everything if keep[t].all())
    assert 0 < len(found) < len(everything)


def test_the_miner_and_the_loss_lead_to_the_same_gradients():
    loss = losses.ContrastiveLoss()
    mine = CleanMiner(knowing_filter())
    filtered = FilteredLoss(loss, knowing_filter())
    rows, labels, _ = batch(0)
    one, other = loss(rows, labels, mine(rows, labels)), filtered(rows, labels)
    torch.testing.assert_close(one, other)
    assert_same(gradients(one, rows, loss), gradients(other, rows, loss))


@pytest.mark.parametrize("inner", [None, miners.MultiSimilarityMiner(1.0), miners.BatchHardMiner()])
@pytest.mark.parametrize("n_kept", [0, 1])
def test_few_rows_kept_give_no_pairs_and_no_loss(inner, n_kept):
    mine = CleanMiner(knowing_filter(), inner)
    rows, labels, _ = batch(0, noise_rate=0)
    labels = torch.where(torch.arange(24) < n_kept, labels, -1)
    found = mine(rows, labels)
    assert [len(part) for part in found] == [0] * len(found)
    assert losses.ContrastiveLoss()(rows, labels, found).item() == 0


def test_in_evaluation_mode_a_miner_leaves_nothing_out():
    mine = CleanMiner(knowing_filter(), miners.BatchHardMiner()).eval()
    rows, labels, _ = batch(0)
    assert_same(mine(rows, labels), miners.BatchHardMiner()(rows, labels))
    assert mine.filter.last is None


@pytest.mark.parametrize("inner", [None, miners.TripletMarginMiner(1.0)])
def test_inside_a_memory_no_rejected_row_is_used_again_and_none_votes_for_itself(inner):
    clean, spy = knowing_filter(), TripletMarginLoss()
    twin = copy.deepcopy(clean)
    memory = losses.CrossBatchMemory(spy, DIM, 60, miner=CleanMiner(clean, inner))
    kept_in_queue = torch.zeros(60, dtype=torch.bool)
    for seed in range(7):
        rows, labels, _ = batch(seed)
        memory(rows, labels)
        keep = kept_by(twin, rows, labels)  # by earlier batches only
        assert clean.last.keep.equal(keep)
        kept_in_queue[memory.curr_batch_idx] = keep
        anchors, positives, *_, negatives = spy.seen.indices
        assert len(anchors) > 10
        assert keep[anchors].all()
        assert kept_in_queue[torch.cat([positives, negatives])].all()
        assert labels[anchors].equal(spy.seen.ref_labels[positives])
        if inner is None:  # none that is clean is left out either
            used = kept_in_queue[: len(spy.seen.ref_rows)].nonzero().flatten()
            assert set(used.tolist()) == set(positives.tolist()) | set(negatives.tolist())


def test_a_miner_that_was_saved_knows_the_rejected_rows_of_the_memory():
    clean, ring = knowing_filter(), [batch(0), batch(1)]
    mine = CleanMiner(clean)
    rows, labels = torch.cat([b.rows for b in ring]), torch.cat([b.labels for b in ring])
    mine(*ring[0][:2], rows[:24], labels[:24])
    mine(*ring[1][:2], rows, labels)
    later = CleanMiner(a_filter())
    later.load_state_dict(saved_and_loaded(mine.state_dict()))
    new = batch(2)
    everything = torch.cat([rows, new.rows]), torch.cat([labels, new.labels])
    found, again = mine(*new[:2], *everything), later(*new[:2], *everything)
    assert_same(found, again)
    assert len(mine.rejected) > 0
    assert len(torch.cat(found[1::2]).unique()) < 72 - len(mine.rejected) + 1


@given(st.integers(0, 1000), st.sampled_from([torch.float32, torch.bfloat16]))
def test_fingerprints_tell_rows_apart_by_a_bit_and_by_label(seed, dtype):
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    labels = torch.tensor([0, 1, 2, 0, 1])
    known = index_tuples.fingerprints(rows, labels)
    assert len(known.unique()) == 5
    assert index_tuples.fingerprints(rows[2:3].clone(), labels[2:3]).equal(known[2:3])
    other = rows.clone()
    other[2, 1] *= 1.01
    assert index_tuples.fingerprints(other, labels)[2] != known[2]
    assert index_tuples.fingerprints(rows, labels + 1)[2] != known[2]
    assert index_tuples.fingerprints(rows.flip(1), labels)[2] != known[2]


# OML: a stand-in for its protocol, and the real library where it is installed


class AllTriplets:
    """As OML's miners: two rows of each label and two labels, or an AssertionError."""

    def sample(self, features, labels):
        assert isinstance(labels, list)
        assert all(labels.count(label) > 1 for label in labels)
        assert len(set(labels)) > 1
        a, p, b, n = index_tuples.all_pairs(torch.tensor(labels))
        pairs = [(i, j, k) for i, j in zip(a, p, strict=True) for k in n[b == i]]
        anchors, positives, negatives = (list(column) for column in zip(*pairs, strict=True))
        return features[anchors], features[positives], features[negatives]


class TripletLossWithMiner(nn.Module):
    """As OML's: the mean over the miner's triplets."""

    def __init__(self, miner, margin):
        super().__init__()
        self.miner, self.margin = miner, margin
        self.last_logs = {}

    def forward(self, features, labels):
        labels = labels.tolist() if isinstance(labels, torch.Tensor) else labels
        anchors, positives, negatives = self.miner.sample(features=features, labels=labels)
        near = torch.cdist(anchors[:, None], positives[:, None])[:, 0, 0]
        gap = near - torch.cdist(anchors[:, None], negatives[:, None])[:, 0, 0]
        self.last_logs = {"active": 1.0, **getattr(self.miner, "last_logs", {})}
        if self.margin is None:
            return gap.exp().log1p().mean()
        return torch.relu(self.margin + gap).mean()


def with_mates(labels, keep):
    kept = labels[keep].tolist()
    return torch.tensor(
        [bool(k) and kept.count(n) > 1 for n, k in zip(labels.tolist(), keep, strict=True)]
    )


@pytest.mark.parametrize("margin", [0.5, None])
@pytest.mark.parametrize("outside", [False, True])
def test_triplets_are_those_of_rows_kept_that_have_a_mate(margin, outside):
    clean = knowing_filter()
    twin = copy.deepcopy(clean)
    by_hand = TripletLossWithMiner(AllTriplets(), margin)
    if outside:
        loss = FilteredLoss(TripletLossWithMiner(AllTriplets(), margin), clean)
    else:
        loss = TripletLossWithMiner(CleanTripletsMiner(AllTriplets(), clean), margin)
    n_alone = 0
    for seed in range(6):
        rows, labels, _ = batch(seed, noise_rate=0.5)
        keep = kept_by(twin, rows, labels)
        used = with_mates(labels, keep)
        n_alone += int((keep & ~used).sum())
        expected = by_hand(rows[used], labels[used])
        value = loss(rows, labels)
        torch.testing.assert_close(value, expected)
        assert_same(gradients(value, rows, loss), gradients(expected, rows, loss))
    assert n_alone > 0
    assert loss.last_logs["kept"] == pytest.approx(float(keep.float().mean()))
    assert loss.last_logs["noise_rate"] == pytest.approx(0.3)
    assert loss.last_logs["active"] == 1.0


@pytest.mark.parametrize("margin", [0.5, None])
@pytest.mark.parametrize("kept", [[], [0], [0, 1], [0, 4, 8]])
def test_where_no_triplet_can_be_made_the_loss_is_zero_and_so_is_its_gradient(margin, kept):
    miner = CleanTripletsMiner(AllTriplets(), knowing_filter())
    loss = TripletLossWithMiner(miner, margin)
    rows, labels, _ = batch(0, noise_rate=0)
    labels = torch.where(torch.isin(torch.arange(24), torch.tensor(kept)), labels, -1)
    value = loss(rows, labels)
    value.backward()
    assert value.item() == 0
    assert (rows.grad == 0).all()


def test_in_evaluation_mode_a_triplets_miner_leaves_nothing_out():
    miner = CleanTripletsMiner(AllTriplets(), knowing_filter()).eval()
    rows, labels, _ = batch(0, noise_rate=0)
    assert_same(miner.sample(rows, labels + 9), AllTriplets().sample(rows, labels.tolist()))
    assert miner.last_logs == {}


def test_a_triplets_miner_is_saved_with_the_loss_that_holds_it():
    loss = TripletLossWithMiner(CleanTripletsMiner(AllTriplets(), knowing_filter()), 0.5)
    assert "miner.filter.counts" in loss.state_dict()


def test_the_real_open_metric_learning_takes_the_miner():
    triplet = pytest.importorskip("oml.losses.triplet")
    oml_miners = pytest.importorskip("oml.miners")
    for inner in oml_miners.AllTripletsMiner(), oml_miners.HardTripletsMiner():
        clean = knowing_filter()
        twin = copy.deepcopy(clean)
        for margin in 0.5, None:
            miner = CleanTripletsMiner(inner, clean)
            loss = triplet.TripletLossWithMiner(margin, miner, need_logs=True)
            by_hand = triplet.TripletLossWithMiner(margin, inner)
            for seed in range(3):
                rows, labels, _ = batch(seed)
                used = with_mates(labels, kept_by(twin, rows, labels))
                expected = by_hand(rows[used], labels[used])
                torch.testing.assert_close(loss(rows, labels), expected)
            assert 0 < loss.last_logs["kept"] < 1
            nothing = loss(rows, torch.full_like(labels, -1))
            assert nothing.item() == 0
            assert twin(rows.detach(), torch.full_like(labels, -1)).sum() == 0
    with pytest.raises(ConfigError, match="MinerWithBank keeps batches"):
        CleanTripletsMiner(oml_miners.MinerWithBank(2, oml_miners.NHardTripletsMiner()), a_filter())
    with pytest.raises(ConfigError, match="HardClusterMiner needs the same number"):
        CleanTripletsMiner(oml_miners.HardClusterMiner(), a_filter())


def test_the_lines_for_open_metric_learning_on_the_page_are_true():
    page = PAGE.read_text()
    lines = re.search(r"^```py\n(.*?)^```", page, re.S | re.M)[1]
    program = compile(lines, "page", "exec")
    pytest.importorskip("oml.losses")
    names = {}
    exec(program, names)
    rows = torch.randn(12, 128, requires_grad=True)
    assert names["criterion"](rows, torch.arange(12) % 3).item() > 0
    assert names["criterion"].last_logs["kept"] == 1


# Several processes


def shares_of_batches():
    """Run in each of two processes, which hold half of each batch."""
    runtime, found = Runtime.start(), []
    filtered = FilteredLoss(losses.MultiSimilarityLoss(), knowing_filter())
    for seed in range(3):
        rows, labels, _ = batch(seed)
        mine = slice(runtime.rank * 12, runtime.rank * 12 + 12)
        rows = rows.detach()[mine].requires_grad_()
        value = filtered(runtime.gather(rows), runtime.gather_detached(labels[mine]))
        value.backward()
        found.append((value.detach(), rows.grad / runtime.n_processes, filtered.filter.last.keep))
    return found, filtered.filter.memory()


def test_two_processes_that_gather_give_the_gradient_and_the_memory_of_one():
    (first, memory), (second, other_memory) = together(shares_of_batches)
    filtered = FilteredLoss(losses.MultiSimilarityLoss(), knowing_filter())
    for seed, one, other in zip(range(3), first, second, strict=True):
        rows, labels, _ = batch(seed)
        value = filtered(rows, labels)
        value.backward()
        for found in one, other:
            torch.testing.assert_close(found[0], value.detach())
            assert found[2].equal(filtered.filter.last.keep)
        torch.testing.assert_close(torch.cat([one[1], other[1]]), rows.grad)
    assert not filtered.filter.last.keep.all()
    assert_same(memory, filtered.filter.memory())
    assert_same(memory, other_memory)


# What is refused


def test_a_filter_in_the_wrong_place_is_told():
    for make in (
        lambda: FilteredLoss(a_filter(), losses.ContrastiveLoss()),
        lambda: CleanMiner(miners.BatchHardMiner(), a_filter()),
        lambda: CleanTripletsMiner(a_filter(), AllTriplets()),
    ):
        with pytest.raises(ConfigError, match="expected a CleanFilter. Have the two arguments"):
            make()


def test_what_cannot_be_given_filtered_rows_is_refused_with_the_way_out():
    wrapper = pml_distributed.DistributedLossWrapper(losses.ContrastiveLoss())
    with pytest.raises(ConfigError, match="DistributedLossWrapper .* Gather embeddings and labels"):
        FilteredLoss(wrapper, a_filter())
    twice = losses.CrossBatchMemory(losses.NTXentLoss(), DIM, 40, miner=CleanMiner(a_filter()))
    with pytest.raises(ConfigError, match="would filter twice. Give the loss CleanMiner's inner"):
        FilteredLoss(twice, a_filter())
    with pytest.raises(ConfigError, match="memory_weight is -1; expected 0 or more"):
        FilteredLoss(losses.ContrastiveLoss(), a_filter(), -1)
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), DIM, 40)
    with pytest.raises(ConfigError, match="CrossBatchMemory takes no references beside its own"):
        FilteredLoss(memory, a_filter(), 1)
    bank = SimpleNamespace(bank_size_in_batches=2, sample=None)
    for make in (
        lambda: CleanTripletsMiner(bank, a_filter()),
        lambda: FilteredLoss(SimpleNamespace(miner=bank), a_filter()),
    ):
        with pytest.raises(ConfigError, match="keeps batches that are all of one size"):
            make()
    cluster = type("HardClusterMiner", (), {"sample": None})()
    with pytest.raises(ConfigError, match="needs the same number of images of each class"):
        CleanTripletsMiner(cluster, a_filter())


def test_shapes_that_do_not_fit_are_told():
    filtered, mine = FilteredLoss(losses.ContrastiveLoss(), a_filter()), CleanMiner(a_filter())
    rows, labels, _ = batch(0)
    for call in filtered, mine:
        with pytest.raises(DataError, match=r"Labels are \(3,\) for embeddings of \(24, 8\)"):
            call(rows, labels[:3])
        with pytest.raises(DataError, match="ref_emb has no ref_labels; expected one label"):
            call(rows, labels, ref_emb=rows * 2)
    with pytest.raises(DataError, match="indices_tuple holds 2 tensors; expected 3"):
        filtered(rows, labels, (labels, labels))


def test_the_version_decides_which_bugs_are_worked_around(monkeypatch):
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), DIM, 40)
    for version, old in [("2.9.0", True), ("3.0.3", False), ("10.1", False), ("odd", True)]:
        monkeypatch.setattr(wrapped.metadata, "version", lambda _, version=version: version)
        assert wrapped.is_old_memory(memory) == old

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(wrapped.metadata, "version", missing)
    assert wrapped.is_old_memory(memory)
    assert not wrapped.is_old_memory(losses.ContrastiveLoss())


def test_neither_library_is_imported():
    for module in adapters, index_tuples, wrapped:
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            assert not any(n.startswith(("pytorch_metric", "oml")) for n in names)
            assert not str(getattr(node, "module", "")).startswith(("pytorch_metric", "oml"))


# What it is for


@pytest.fixture(scope="module")
def example():
    path = ROOT / "examples" / "train_with_filter.py"
    spec = importlib.util.spec_from_file_location("an_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_retrieves_better_with_the_filter(example):
    without, with_filter = example.main(n_steps=200, seed=1)
    assert with_filter > without + 0.15


def test_the_example_prints_what_the_page_shows(example, capsys):
    scores = example.main()
    printed, page = capsys.readouterr().out, PAGE.read_text()
    pattern = r"^precision at 1 without the filter (0\.\d\d), with it (0\.\d\d)$"
    assert re.search(pattern, printed, re.M)
    shown = re.search(pattern, page, re.M)
    assert [float(shown[1]), float(shown[2])] == pytest.approx(scores, abs=0.06)
