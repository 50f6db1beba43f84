"""The memory bank: a ring against a deque, what it skips, and what it keeps in its state."""

from __future__ import annotations

import io
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import ConfigError, DataError
from labelsieve.features.bank import MemoryBank
from labelsieve.features.objectives import info_nce_queue


def numbered(start: int, n: int, width: int = 2) -> torch.Tensor:
    return torch.arange(start, start + n, dtype=torch.float32)[:, None].expand(n, width)


@given(
    size=st.integers(1, 7),
    batches=st.lists(st.lists(st.booleans(), max_size=20), max_size=8),
    labeled=st.booleans(),
)
def test_bank_holds_the_last_finite_rows_as_a_deque_does(size, batches, labeled):
    bank, twin, seen, n_skipped = MemoryBank(size, 2), deque(maxlen=size), 0, 0
    for finite in batches:
        rows = numbered(seen, len(finite)).clone()
        labels = torch.arange(seen, seen + len(finite)) * 10
        for i, good in enumerate(finite):
            if good:
                twin.append((float(seen + i), (seen + i) * 10 if labeled else -1))
            else:
                rows[i, i % 2] = (torch.nan, torch.inf, -torch.inf)[i % 3]
                n_skipped += 1
        bank.push(rows, labels if labeled else None)
        seen += len(finite)
        features, kept = bank.read()
        assert len(bank) == len(features) == len(kept) == len(twin)
        held = zip(features[:, 0].tolist(), kept.tolist(), strict=True)
        assert sorted(held) == sorted(twin)
        assert torch.equal(features[:, 0], features[:, 1])
        assert bank.n_skipped.item() == n_skipped


@given(size=st.integers(1, 7), lengths=st.lists(st.integers(0, 20), max_size=8))
def test_row_number_t_lies_in_slot_t_modulo_size(size, lengths):
    bank, ring, seen = MemoryBank(size, 1), [None] * size, 0
    for n in lengths:
        bank.push(numbered(seen, n, 1))
        for t in range(seen, seen + n):
            ring[t % size] = float(t)
        seen += n
        assert bank.read()[0].flatten().tolist() == [value for value in ring if value is not None]
        assert bank.next_slot.item() == seen % size


@given(size=st.integers(1, 7), lengths=st.lists(st.integers(0, 9), max_size=8))
def test_rows_that_go_in_one_piece_are_written_and_told_of_as_any_others(size, lengths):
    plain, masked, seen = MemoryBank(size, 2), MemoryBank(size, 2), 0
    for n in lengths:
        rows, labels = numbered(seen, n), torch.arange(seen, seen + n)
        olds = [
            plain.exchange(rows, labels),
            masked.exchange(rows, labels, keep=torch.ones(n, dtype=torch.bool)),
        ]
        gone = [old.features[old.labels >= 0] for old in olds]
        assert gone[0].equal(gone[1])
        assert olds[0].labels[olds[0].labels >= 0].equal(olds[1].labels[olds[1].labels >= 0])
        for ours, theirs in zip(plain.buffers(), masked.buffers(), strict=True):
            assert ours.equal(theirs)
        seen += n


def test_large_rows_whose_sum_is_not_finite_are_kept():
    bank = MemoryBank(4, 2)
    bank.push(torch.full((3, 2), 3e38))
    assert len(bank) == 3
    assert bank.n_skipped == 0


def test_an_empty_bank_reads_as_no_rows_and_a_queue_loss_of_zero():
    bank = MemoryBank(4, 3)
    features, labels = bank.read()
    assert features.shape == (0, 3)
    assert labels.shape == (0,)
    assert info_nce_queue(torch.eye(3), torch.eye(3), features).item() == 0


def test_what_was_read_survives_a_push_before_backward():
    bank, queries = MemoryBank(2, 3), torch.eye(3).requires_grad_()
    bank.push(torch.eye(3)[:2])
    loss = info_nce_queue(queries, torch.eye(3), bank.read()[0])
    bank.push(torch.ones(2, 3))
    loss.backward()  # a view of the bank would raise here: it was changed in place
    again = queries.detach().clone().requires_grad_()
    info_nce_queue(again, torch.eye(3), torch.eye(3)[:2]).backward()
    assert torch.equal(queries.grad, again.grad)


def test_pushed_rows_are_detached():
    bank, rows = MemoryBank(2, 3), torch.eye(3)[:2].requires_grad_()
    bank.push(rows * 2)
    assert not bank.read()[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage_rounds_once_and_takes_half_the_memory(dtype):
    rows = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
    bank, full = MemoryBank(8, 16, dtype=dtype), MemoryBank(8, 16)
    for each in (bank, full):
        each.push(rows)
    assert torch.equal(bank.read()[0], rows.to(dtype))
    assert 2 * bank.features.nbytes == full.features.nbytes
    losses = [info_nce_queue(rows, rows, each.read()[0]).item() for each in (bank, full)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_rows_too_large_for_half_precision_are_skipped():
    bank = MemoryBank(3, 1, dtype=torch.float16)
    bank.push(torch.tensor([[1.0], [1e6], [2.0]]))  # float16 ends at 65,504
    assert bank.read()[0].flatten().tolist() == [1, 2]
    assert bank.n_skipped.item() == 1


def test_state_is_saved_with_the_model_and_continues_as_if_never_stopped():
    bank = MemoryBank(5, 2)
    bank.push(numbered(0, 7), torch.arange(7))
    assert len(bank) == 5
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other = MemoryBank(5, 2)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (bank, other):
        each.push(numbered(7, 4), torch.arange(4))
    for ours, theirs in zip(bank.state_dict().items(), other.state_dict().items(), strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])


def test_a_full_bank_can_take_the_state_of_one_that_is_filling():
    bank, young = MemoryBank(3, 2), MemoryBank(3, 2)
    bank.push(numbered(0, 3))
    assert len(bank) == 3
    young.push(numbered(8, 1))
    bank.load_state_dict(young.state_dict())
    assert bank.read()[0].tolist() == [[8, 8]]


def test_rows_and_labels_of_other_shapes_and_impossible_banks_are_refused():
    bank = MemoryBank(3, 2)
    with pytest.raises(DataError, match=r"pushed are \(1, 3\); expected \(B, 2\)"):
        bank.push(torch.zeros(1, 3))
    with pytest.raises(DataError, match=r"Labels are \(2,\); expected \(1,\)"):
        bank.push(torch.zeros(1, 2), torch.zeros(2))
    with pytest.raises(ConfigError, match="bank of 0 rows of 2 holds nothing"):
        MemoryBank(0, 2)
    with pytest.raises(ConfigError, match=r"torch.int64 cannot hold features"):
        MemoryBank(3, 2, dtype=torch.int64)


@pytest.mark.gpu
def test_pushes_on_cuda_never_wait_for_the_device():
    bank, rows = MemoryBank(64, 8).cuda(), torch.randn(24, 8, device="cuda")
    rows[3, 1] = torch.nan
    twin = MemoryBank(64, 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            bank.push(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(5):
        twin.push(rows.cpu())
    assert torch.equal(bank.read()[0].cpu(), twin.read()[0])
