"""The clean filter: its slow twin, the published traces, and what must hold for any rows."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

import reference_prism as reference
from labelsieve.errors import ConfigError, DataError
from labelsieve.features.bank import MemoryBank
from labelsieve.methods.prism.centers import (
    average_similarity,
    class_sums,
    clean_log_probability,
    log_likelihoods,
    margins,
)
from labelsieve.methods.prism.filter import CleanFilter, Filter
from labelsieve.methods.prism.thresholds import SmoothThreshold, top_r_threshold

GOLDEN = Path(__file__).parent / "golden" / "prism"
BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "prism_filter.py"
TRACES = ("01", "02", "05", "11")
ALL_SCORES = ("average", "cosine", "vmf")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("prism_filter_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trace(name):
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    return {key: torch.from_numpy(value) for key, value in arrays.items() if value.ndim}, (
        json.loads(str(arrays["config"]))["cfg"]
    )


def stream(n_classes, dim, batch, steps, noise, seed=0, spread=1.2):
    """Rows, given labels, and which are wrong; four rows a class in each batch."""
    g = torch.Generator().manual_seed(seed)
    centers = normalize(torch.randn(n_classes, dim, generator=g), dim=1)
    made = []
    for _ in range(steps):
        labels = torch.randperm(n_classes, generator=g)[: batch // 4].repeat_interleave(4)
        wrong = torch.rand(len(labels), generator=g) < noise
        shift = torch.randint(1, n_classes, (len(labels),), generator=g)
        true = torch.where(wrong, (labels + shift) % n_classes, labels)
        rows = centers[true] + spread * torch.randn(len(labels), dim, generator=g) / dim**0.5
        made.append((normalize(rows, dim=1), labels, wrong))
    return made


def run(clean, batches):
    """(T, B) what was kept."""
    kept = []
    for rows, labels, *_ in batches:
        keep = clean(rows, labels)
        clean.update(rows, labels, keep)
        kept.append(keep)
    return torch.stack(kept)


def removal(kept, wrong):
    """Precision and recall of what was removed."""
    right = (~kept & wrong).sum().item()
    return right / max(1, (~kept).sum().item()), right / wrong.sum().item()


# ------------------------------------------------------------------ the formulas


def test_mean_similarity_to_the_memory_is_the_product_with_the_class_mean():
    x = {key: torch.from_numpy(value) for key, value in
         np.load(GOLDEN / "ideal_full_vs_center.npz").items()}  # fmt: skip
    full = average_similarity(x["feats"], x["mem_feats"], x["mem_labels"], 12)
    sums, counts = class_sums(x["mem_feats"], x["mem_labels"], 12)
    present = counts > 0
    assert present.equal(x["present"])
    centers = sums / counts.clamp(min=1)[:, None]
    short = log_likelihoods(x["feats"], centers, present, score="average")
    assert (full - short)[:, present].abs().max() < 1e-12
    assert torch.allclose(full, x["T_full"], atol=1e-12, rtol=0, equal_nan=True)
    wrong = log_likelihoods(x["feats"], normalize(centers, dim=1), present, score="average")
    assert (full - wrong)[:, present].abs().max() > 0.01
    args = (x["feats"], x["labels"], centers, present)
    mine = clean_log_probability(*args, score="average")
    scored = present[x["labels"]]
    expected = x["P_clean_present_only"].log()
    assert torch.allclose(mine[scored], expected[scored], atol=1e-12, rtol=0)
    assert mine[~scored].isnan().all()
    theirs = clean_log_probability(*args, score="average", published=True).exp()
    expected = x["P_clean_reference_denominator"][scored]
    assert torch.allclose(theirs[scored], expected, atol=1e-12, rtol=0)
    assert (theirs[~scored] == 1).all()


@given(n=st.integers(1, 12), dim=st.integers(1, 5), seed=st.integers(0, 999))
def test_similarity_and_clean_probability_are_their_slow_twins(n, dim, seed):
    g = torch.Generator().manual_seed(seed)
    memory, rows = torch.randn(n, dim, generator=g), torch.randn(3, dim, generator=g)
    labels = torch.randint(0, 4, (n,), generator=g)
    found = average_similarity(rows, memory, labels, 4)
    sums, counts = class_sums(memory, labels, 4)
    own = labels[:1].expand(3)
    log_p = clean_log_probability(
        rows, own, sums / counts.clamp(min=1)[:, None], counts > 0, score="average"
    )
    for i, row in enumerate(rows.tolist()):
        args = (memory.tolist(), labels.tolist())
        for k in range(4):
            expected = reference.average_similarity(row, *args, k)
            assert found[i, k].item() == pytest.approx(
                math.nan if expected is None else expected, abs=1e-5, nan_ok=True
            )
        expected = reference.clean_log_probability(row, int(own[i]), *args, 4)
        assert log_p[i].item() == pytest.approx(expected, abs=1e-5)


def test_margins_of_absent_classes_of_no_label_and_without_rivals_are_not_a_number():
    similarity = torch.tensor([[0.5, 0.2, 9.0], [0.5, 0.2, 9.0], [0.5, 0.2, 9.0]])
    present = torch.tensor([True, True, False])
    found = margins(similarity, torch.tensor([1, 2, -1]), present)
    assert found[0] == pytest.approx(-0.3)
    assert found[1:].isnan().all()
    assert (
        margins(similarity, torch.zeros(3).long(), torch.tensor([True, False, False])).isnan().all()
    )
    assert similarity[0].tolist() == pytest.approx([0.5, 0.2, 9.0])  # is not written to


@pytest.mark.parametrize("score", ALL_SCORES)
def test_absent_classes_have_no_likelihood_and_disturb_no_other(score):
    g = torch.Generator().manual_seed(0)
    rows, centers = torch.randn(3, 4, generator=g), torch.randn(5, 4, generator=g) / 4
    centers[3:] = 0
    present, counts = torch.tensor([True] * 3 + [False] * 2), torch.tensor([4, 5, 1, 0, 0])
    found = log_likelihoods(rows, centers, present, score=score, counts=counts)
    fewer = log_likelihoods(rows, centers[:3], present[:3], score=score, counts=counts[:3])
    assert torch.allclose(found[:, :3], fewer)
    assert (found[:, 3:] == -torch.inf).all()


# ------------------------------------------------------------------ thresholds


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("window", [1, 5, 30])
def test_smooth_thresholds_are_the_ideal_ones(rate, window):
    ideal = np.load(GOLDEN / "ideal_strm.npz")
    probabilities = torch.from_numpy(ideal["probs"])
    smooth, slow = SmoothThreshold(window), reference.smooth_thresholds(
        probabilities.tolist(), rate, window
    )  # fmt: skip
    for step, scores in enumerate(probabilities):
        cut = smooth(scores, rate)
        expected = ideal[f"thr_R{rate}_tau{window}"][step]
        assert cut.threshold.item() == pytest.approx(expected, abs=1e-12)
        assert slow[step] == pytest.approx(expected, abs=1e-12)
        assert cut.keep.tolist() == ideal[f"keep_R{rate}_tau{window}"][step].tolist()
        if window == 1:
            assert (~cut.keep).sum() == int(rate * 20)


def test_the_quantile_is_over_scored_rows_only():
    scores = torch.tensor([torch.nan, 0.4, 0.1, torch.nan, 0.3, 0.2, torch.nan, torch.nan])
    assert top_r_threshold(scores, 0.5) == torch.tensor(0.2)
    assert SmoothThreshold(1)(scores, 0.5).keep.tolist() == [
        True, True, False, True, True, False, True, True
    ]  # fmt: skip


def test_a_rate_below_one_row_a_batch_still_removes_about_that_rate():
    smooth, g = SmoothThreshold(30), torch.Generator().manual_seed(0)
    assert top_r_threshold(torch.tensor([0.0, 1.0]), 0.25).item() == -0.5
    kept = [smooth(torch.rand(16, generator=g), 0.05).keep for _ in range(600)]
    assert 0.02 < 1 - torch.stack(kept).float().mean() < 0.08


@pytest.mark.parametrize("scores", [[], [0.5], [torch.nan, torch.nan], [0.3, 0.3, 0.3, 0.3]])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_batches_without_a_quantile_and_equal_scores_are_kept(scores, rate):
    for window in (1, 3):
        smooth = SmoothThreshold(window)
        for _ in range(3):
            assert smooth(torch.tensor(scores), rate).keep.all()


def test_where_nobody_passes_the_batch_is_judged_by_itself_and_the_past_forgotten():
    smooth = SmoothThreshold(30)
    for _ in range(5):
        smooth(torch.tensor([0.8, 0.9, 0.85, 0.95]), 0.5)
    cut = smooth(torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.5)
    assert cut.keep.tolist() == [False, False, True, True]
    assert cut.threshold == torch.tensor(0.2)
    assert smooth.n_values == 1
    assert smooth(torch.tensor([0.1, 0.3, 0.4, 0.5]), 0.5).threshold.item() == pytest.approx(0.25)


def test_a_rate_of_zero_forgets_the_window():
    smooth = SmoothThreshold(3)
    smooth(torch.tensor([0.8, 0.9]), 0.5)
    assert smooth(torch.tensor([0.1, 0.2]), 0.0).keep.all()
    assert smooth.n_values == 0
    with pytest.raises(ConfigError, match="window is 0 batches; expected 1 or more"):
        SmoothThreshold(0)


# ------------------------------------------------------------------ the published form


@pytest.mark.parametrize("name", TRACES)
def test_published_form_gives_the_traces_of_the_authors_code(name, benchmark):
    x, cfg = trace(name)
    args = (cfg["C"], cfg["D"], cfg["mem"])
    loop = benchmark.PublishedLoop(*args, cfg["R"], cfg["window"])
    clean = CleanFilter(*args, Filter(noise_rate=cfg["R"], window=cfg["window"], published=True))
    for step, (rows, labels) in enumerate(zip(x["feats"], x["labels"], strict=True)):
        kept = loop.judge(rows, labels)
        # the centers of the authors' code, which come one step late and lose some rows
        clean.sums[:-1], clean.weights[:] = loop.centers, loop.filled.float()
        keep = clean(rows, labels)
        expected, threshold = x["keep"][step], x["threshold"][step]
        assert loop.filled.equal(x["filled_at_call"][step])
        assert keep.equal(kept) or threshold == 1
        if threshold == 1:  # rows removed at random, of equal scores: int(R B) of them
            assert keep.sum() == kept.sum() == expected.sum()
        else:
            assert keep.equal(expected)
        if x["scored"][step]:
            probabilities = clean.last.scores.float()
            assert torch.allclose(probabilities, x["prob"][step], atol=2e-6, rtol=0)
            assert torch.allclose(probabilities, loop.probabilities, atol=2e-6, rtol=0)
            assert clean.last.threshold.item() == pytest.approx(threshold.item(), abs=2e-6)
            assert loop.threshold == pytest.approx(threshold.item(), abs=2e-6)
        clean.update(rows, labels, expected)
        loop.last_inserted = labels[expected].unique().tolist() if loop.n_rows else []
        loop.insert(rows[expected], labels[expected])
        assert loop.next_slot == x["ptr_after"][step]
    assert torch.allclose(loop.centers, x["center_final"], atol=1e-6)


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize("score", ["average", "cosine"])
def test_removal_is_at_least_as_right_as_that_of_the_authors_code(name, score):
    x, cfg = trace(name)
    clean = CleanFilter(
        cfg["C"], cfg["D"], cfg["mem"],
        Filter(noise_rate=cfg["R"], window=cfg["window"], score=score),
    )  # fmt: skip
    kept = run(clean, zip(x["feats"], x["labels"], strict=True))
    half, wrong = len(kept) // 2, x["labels"] != x["true"]
    mine, theirs = (removal(k[half:], wrong[half:]) for k in (kept, x["keep"]))
    slack = 0.004 if score == "cosine" else 1e-9  # of 250 rows, one
    assert mine[0] >= theirs[0] - slack
    assert mine[1] >= theirs[1] - slack


def test_published_form_asks_for_what_the_authors_code_knows():
    with pytest.raises(ConfigError, match="knows only score 'average' and a given rate. Set both"):
        Filter(published=True)
    with pytest.raises(ConfigError, match="published with score 'vmf'"):
        Filter(published=True, noise_rate=0.5, score="vmf")


# ------------------------------------------------------------------ the filter


@settings(max_examples=12)
@given(
    seed=st.integers(0, 999),
    size=st.integers(8, 40),  # of fewer than the batch's 8, rows come and go in one step
    rate=st.sampled_from([0.05, 0.3, 0.5, 0.8]),
    window=st.integers(1, 4),
    cosine=st.booleans(),
)
def test_filter_is_its_slow_twin(seed, size, rate, window, cosine):
    batches = stream(6, 4, 8, 12, 0.4, seed)
    score = "cosine" if cosine else "average"
    clean = CleanFilter(6, 4, size, Filter(noise_rate=rate, window=window, score=score))
    slow = reference.SlowFilter(6, size, rate, window, cosine=cosine)
    for rows, labels, _ in batches:
        scores = slow.scores(rows.tolist(), labels.tolist())
        expected = slow.step((3 * rows).tolist(), labels.tolist())
        keep = clean(3 * rows, labels)
        clean.update(3 * rows, labels, keep)
        nan = [math.nan if s is None else s for s in scores]
        assert clean.last.scores.tolist() == pytest.approx(nan, abs=1e-5, nan_ok=True)
        close = (clean.last.scores - clean.last.threshold).abs() < 1e-6  # rounding may decide
        if close.any():
            return
        assert keep.tolist() == expected


@pytest.mark.parametrize("score", ALL_SCORES)
def test_half_of_symmetric_noise_is_found_by_every_score(score):
    batches = stream(30, 32, 32, 150, 0.5)
    kept = run(CleanFilter(30, 32, 1000, Filter(noise_rate=0.5, score=score)), batches)
    wrong = torch.stack([w for *_, w in batches])
    precision, recall = removal(kept[75:], wrong[75:])
    assert precision > 0.95
    assert recall > 0.95


def test_no_row_is_removed_before_half_a_batch_has_centers():
    batches = stream(64, 32, 16, 60, 0.5)
    clean = CleanFilter(64, 32, 4000, Filter(noise_rate=0.5))
    n_removed = 0
    for step, (rows, labels, _) in enumerate(batches):
        keep = clean(rows, labels)
        clean.update(rows, labels, keep)
        if not n_removed and not keep.all():
            assert step > 0
            assert clean.last.scored.float().mean() >= 0.5
        n_removed += int((~keep).sum())
        assert keep[~clean.last.scored].all()
    assert n_removed > 200


def test_a_mistaken_rate_never_freezes_the_memory_and_orders_precision():
    batches = stream(20, 32, 32, 120, 0.5)
    wrong = torch.stack([w for *_, w in batches])
    precisions = []
    for rate in (0.3, 0.4, 0.5, 0.6, 0.7):
        kept = run(CleanFilter(20, 32, 400, Filter(noise_rate=rate)), batches)
        assert kept.any(dim=1).all()
        assert abs((~kept[60:]).float().mean().item() - rate) < 0.12
        precisions.append(removal(kept[60:], wrong[60:])[0])
    assert precisions == sorted(precisions, reverse=True) or min(precisions[:3]) > 0.95
    assert precisions[2] > precisions[3] > precisions[4] > 0.6


def test_rows_that_jump_elsewhere_do_not_freeze_the_memory():
    clean = CleanFilter(20, 32, 200, Filter(noise_rate=0.3))
    run(clean, stream(20, 32, 32, 60, 0.2, seed=1, spread=0.3))
    batches = stream(20, 32, 32, 120, 0.2, seed=2)  # other centers: nothing learned is true
    kept = run(clean, batches)
    assert kept.any(dim=1).all()
    assert removal(kept[60:], torch.stack([w for *_, w in batches])[60:])[1] > 0.9


@pytest.mark.parametrize("score", ALL_SCORES)
def test_the_order_of_a_batch_the_norm_of_its_rows_and_unused_classes_change_nothing(score):
    batches = stream(10, 16, 16, 40, 0.4)
    g = torch.Generator().manual_seed(3)
    made = Filter(noise_rate=0.4, score=score)
    plain, moved = CleanFilter(10, 16, 90, made), CleanFilter(10, 16, 90, made)
    more = CleanFilter(15, 16, 90, made)
    for rows, labels, _ in batches:
        keep = plain(rows, labels)
        order = torch.randperm(16, generator=g)
        scale = torch.rand(16, 1, generator=g) * 9 + 0.1
        assert moved((scale * rows)[order], labels[order]).equal(keep[order])
        assert more(rows, labels).equal(keep)
        plain.update(rows, labels, keep)
        moved.update(scale * rows, labels, keep)
        more.update(rows, labels, keep)
    assert (~keep).any()


def test_label_values_may_begin_at_one_and_have_gaps():
    batches = stream(10, 16, 16, 40, 0.4)
    plain = CleanFilter(10, 16, 90, Filter(noise_rate=0.4))
    named = CleanFilter([5 + 3 * k for k in range(10)], 16, 90, Filter(noise_rate=0.4))
    kept = run(plain, batches)
    assert run(named, [(rows, 5 + 3 * labels) for rows, labels, _ in batches]).equal(kept)
    assert (plain.memory()[1] * 3 + 5).equal(named.memory()[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rows_of_any_precision_are_filtered_in_float32(dtype):
    batches = [(rows.to(dtype), labels) for rows, labels, _ in stream(8, 16, 16, 20, 0.4)]
    clean, single = (CleanFilter(8, 16, 100, Filter(noise_rate=0.4)) for _ in range(2))
    kept = run(clean, batches)
    assert kept.equal(run(single, [(rows.float(), labels) for rows, labels in batches]))
    assert clean.memory()[0].dtype == torch.float32
    assert (~kept).any()


def test_autocast_does_not_change_what_is_kept():
    batches = stream(8, 16, 16, 20, 0.4)
    clean, under = (CleanFilter(8, 16, 100, Filter(noise_rate=0.4)) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = run(under, batches)
    assert kept.equal(run(clean, batches))
    assert clean.last.scores.equal(under.last.scores)


@pytest.mark.parametrize("score", ALL_SCORES)
def test_rows_that_are_not_finite_or_have_no_label_are_never_kept_nor_remembered(score):
    bad, good = stream(8, 16, 16, 30, 0.3), stream(8, 16, 16, 30, 0.3)
    clean = CleanFilter(8, 16, 100, Filter(noise_rate=0.3, score=score))
    twin = CleanFilter(8, 16, 100, Filter(noise_rate=0.3, score=score))
    for (rows, labels, _), (same, names, _) in zip(bad, good, strict=True):
        rows[1, 3], rows[5], rows[7, 0], labels[9] = math.nan, 0.0, -math.inf, -1
        unusable = torch.zeros(16).bool()
        unusable[[1, 5, 7, 9]] = True
        keep, expected = clean(rows, labels), twin(same[~unusable], names[~unusable])
        assert not keep[unusable].any()
        assert keep[~unusable].equal(expected)
        clean.update(rows, labels)  # all of them, but those that cannot be used
        twin.update(same[~unusable], names[~unusable])
        assert clean.memory()[0].isfinite().all()
    assert clean.counts.equal(twin.counts)
    assert torch.allclose(clean.centers, twin.centers, atol=1e-6)
    assert clean.last.scores[[1, 5, 7, 9]].isnan().all()


def test_empty_batches_and_batches_of_one_row():
    clean = CleanFilter(3, 4, 5, Filter(noise_rate=0.5))
    empty = torch.zeros(0, 4), torch.zeros(0).long()
    assert clean(*empty).shape == (0,)
    clean.update(*empty)
    assert clean.memory()[0].shape == (0, 4)
    for k in range(12):
        row, label = torch.eye(4)[[k % 3]], torch.tensor([k % 3])
        assert clean(row, label).tolist() == [True]
        clean.update(row, label)
    assert clean(*empty).shape == (0,)
    assert clean.memory()[1].tolist() == [1, 2, 1, 2, 0]  # by slot: row 10 is in the first
    clean.update(torch.eye(4)[:1], torch.tensor([0]), torch.tensor([False]))
    assert len(clean.bank) == 5


def test_one_class_has_no_rival_and_everything_is_kept():
    clean = CleanFilter(1, 4, 8, Filter(noise_rate=0.5))
    assert run(clean, [(torch.eye(4), torch.zeros(4).long())] * 4).all()


def test_a_rate_of_zero_keeps_everything_and_still_scores():
    clean = CleanFilter(8, 16, 100, Filter(noise_rate=0))
    assert run(clean, stream(8, 16, 16, 20, 0.5)).all()
    assert clean.last.scores.isfinite().all()


def test_a_class_that_has_left_the_memory_keeps_its_last_center_until_it_is_back():
    clean = CleanFilter(3, 3, 2, Filter(noise_rate=0.5))
    eye = torch.eye(3)
    clean.update(eye[:1], torch.tensor([0]))
    clean.update(eye[1:], torch.tensor([1, 2]))
    assert clean.counts.tolist() == [0, 1, 1]
    assert clean.centers.equal(eye)
    assert clean.present.all()
    clean.update(eye[2:], torch.tensor([0]))  # takes the place of class 1
    assert clean.centers.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1]]


@given(
    size=st.integers(1, 9),
    batches=st.lists(
        st.lists(st.tuples(st.integers(-1, 3), st.booleans()), max_size=14), max_size=9
    ),
)
def test_centers_are_the_means_of_the_last_rows_kept(size, batches):
    clean, memory, centers = CleanFilter(4, 2, size), [], {}
    g = torch.Generator().manual_seed(0)
    for batch in batches:
        rows = normalize(torch.randn(len(batch), 2, generator=g), dim=1)
        labels = torch.tensor([k for k, _ in batch], dtype=torch.int64)
        keep = torch.tensor([kept for _, kept in batch], dtype=torch.bool)
        clean.update(rows, labels, keep)
        kept = [
            (r, k) for r, (k, good) in zip(rows.tolist(), batch, strict=True) if good and k >= 0
        ]
        memory = [*memory, *kept][-size:]
        for k in range(4):
            own = [row for row, label in memory if label == k]
            assert clean.counts[k] == len(own)
            if own:
                centers[k] = reference.mean_row(own)
                assert clean.centers[k].tolist() == pytest.approx(centers[k], abs=1e-5)
        assert sorted(clean.memory()[1].tolist()) == sorted(k for _, k in memory)


def test_centers_are_exact_after_a_hundred_thousand_rows():
    clean, g = CleanFilter(5, 8, 64), torch.Generator().manual_seed(0)
    for _ in range(400):
        clean.update(torch.randn(250, 8, generator=g), torch.randint(0, 5, (250,), generator=g))
    sums, counts = class_sums(*clean.memory(), 5)
    assert clean.counts.equal(counts)
    assert torch.allclose(clean.centers, sums / counts[:, None], atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [0.4, "auto"])
def test_a_filter_saved_and_loaded_goes_on_as_if_never_stopped(rate):
    batches = stream(10, 16, 64, 60, 0.4)
    clean = CleanFilter(10, 16, 90, Filter(noise_rate=rate))
    run(clean, batches[:30])
    file = io.BytesIO()
    torch.save(clean.state_dict(), file)
    file.seek(0)
    other = CleanFilter(10, 16, 90, Filter(noise_rate=rate))
    other.load_state_dict(torch.load(file, weights_only=True))
    twin = copy.deepcopy(clean)
    kept = run(clean, batches[30:])
    assert run(other, batches[30:]).equal(kept)
    assert run(twin, batches[30:]).equal(kept)
    for ours, theirs in zip(clean.state_dict().items(), other.state_dict().items(), strict=True):
        assert ours[0] == theirs[0]
        assert ours[1].equal(theirs[1])
    assert other.noise_rate == clean.noise_rate


def test_rows_changed_in_place_after_forward_are_read_anew():
    clean, rows = CleanFilter(2, 2, 4), torch.eye(2)
    clean(rows, torch.tensor([0, 1]))
    rows.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    clean.update(rows, torch.tensor([0, 1]))
    assert clean.memory()[0].equal(rows)
    with torch.inference_mode():
        clean.update(torch.eye(2), torch.tensor([1, 1]))
    assert clean.counts.tolist() == [1, 3]


def test_rows_with_a_graph_are_not_held_on_to():
    clean, weight = CleanFilter(2, 2, 4), torch.eye(2, requires_grad=True)
    keep = clean(weight * 2, torch.tensor([0, 1]))
    clean.update(weight * 2, torch.tensor([0, 1]), keep)
    assert not any(x.requires_grad for x in (*clean.memory(), clean.last.scores, clean.centers))


@pytest.mark.parametrize("score", ALL_SCORES)
@pytest.mark.parametrize("size", [40, 500])
def test_what_is_done_where_asking_costs_a_wait_has_the_same_result(score, size, monkeypatch):
    batches = stream(20, 16, 32, 40, 0.4) + stream(20, 16, 32, 10, 0.4, seed=9)
    for rows, labels, _ in batches[::3]:
        rows[2], labels[4] = math.nan, -1
    here, there = (CleanFilter(20, 16, size, Filter(noise_rate=0.4, score=score)) for _ in "ab")
    kept = run(here, batches)
    for module in ("filter", "thresholds", "usable"):
        name = f"labelsieve.methods.prism.{module}.waits_for_nothing"
        monkeypatch.setattr(name, lambda values: False)
    assert run(there, batches).equal(kept)
    assert (~kept).sum() > 300
    for name, value in here.state_dict().items():
        if name != "sums":  # its last row, of no class, has what is not asked about
            assert torch.allclose(value, there.state_dict()[name], atol=1e-6), name
    assert torch.allclose(here.centers, there.centers, atol=1e-6)


@pytest.mark.gpu
def test_a_step_on_cuda_never_waits_for_the_device_and_agrees_with_the_cpu():
    batches = stream(20, 16, 32, 40, 0.4)
    clean = CleanFilter(20, 16, 500, Filter(noise_rate=0.4)).cuda()
    there = [(rows.cuda(), labels.cuda()) for rows, labels, _ in batches]
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = run(clean, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    here = run(CleanFilter(20, 16, 500, Filter(noise_rate=0.4)), batches)
    assert (kept.cpu() == here).float().mean() > 0.999


def test_auto_begins_with_removing_nothing_and_asks_for_the_rate_now_and_then(monkeypatch):
    asked = []

    def answer(margin, chance):
        asked.append((len(margin), margin.mean() > chance.mean()))
        return 0.3

    monkeypatch.setattr("labelsieve.methods.prism.noise_rate.online_noise_rate", answer)
    clean = CleanFilter(10, 16, 500)
    kept = run(clean, stream(10, 16, 32, 63, 0.3))  # 2016 rows
    assert kept.all()
    assert clean.noise_rate == 0
    kept = run(clean, stream(10, 16, 32, 100, 0.3))
    assert clean.noise_rate == 0.3
    assert [right for _, right in asked] == [True, True]
    assert 0.2 < (~kept[40:]).float().mean() < 0.4


def test_settings_out_of_range_are_refused_by_name():
    for wrong, text in (
        ({"noise_rate": 1}, "noise_rate is 1; expected 'auto' or a share from 0 to below 1. At 1"),
        ({"noise_rate": -0.1}, "noise_rate is -0.1"),
        ({"noise_rate": "some"}, "noise_rate is 'some'"),
        ({"window": 0}, "window is 0 batches"),
        ({"score": "cosin"}, "score is 'cosin'. Did you mean 'cosine'"),
        ({"temperature": -1}, "temperature is -1; expected 0 or more"),
        ({"memory_size": -1}, "memory_size is -1 rows"),
        ({"least_scored": 0}, "least_scored is 0; expected above 0, at most 1"),
    ):
        with pytest.raises(ConfigError, match=text):
            Filter(**wrong)
    with pytest.raises(ConfigError, match="classes are 0; expected how many, or label values"):
        CleanFilter(0, 2, 2)
    with pytest.raises(ConfigError, match=r"classes are \[-1, 0\]"):
        CleanFilter([-1, 0], 2, 2)


def test_rows_and_labels_that_do_not_fit_are_refused():
    clean = CleanFilter(3, 2, 4)
    with pytest.raises(DataError, match=r"Rows to filter are \(2, 3\); expected \(B, 2\)"):
        clean(torch.zeros(2, 3), torch.zeros(2).long())
    with pytest.raises(DataError, match=r"Labels are \(1,\); expected \(2,\)"):
        clean.update(torch.eye(2), torch.zeros(1).long())
    with pytest.raises(DataError, match=r"keep is \(3,\); expected \(2,\)"):
        clean.update(torch.eye(2), torch.zeros(2).long(), torch.ones(3).bool())
    with pytest.raises(
        DataError, match="1 labels are none of the filter's 3 classes, 0 to 2. Name"
    ):
        clean(torch.eye(2), torch.tensor([1, 3]))
    assert clean(torch.eye(2), torch.tensor([1, 2])).all()  # and goes on


def test_the_settings_memory_size_goes_before_the_one_given():
    assert len(CleanFilter(2, 2, 50, Filter(memory_size=7)).bank.labels) == 7


# ------------------------------------------------------------------ the bank's new answers


def test_bank_tells_which_labeled_rows_had_to_go_and_passes_over_the_others():
    bank, rows = MemoryBank(3, 1), torch.arange(8.0)[:, None]
    keep = torch.tensor([True, False, True])
    assert (bank.exchange(rows[:3], torch.tensor([5, 6, 7]), keep=keep).labels == -1).all()
    assert bank.n_skipped == 0
    old = bank.exchange(rows[3:5], torch.tensor([8, 9]))
    gone = old.labels >= 0
    assert (old.features[gone].tolist(), old.labels[gone].tolist()) == ([[0.0]], [5])
    old = bank.exchange(rows, torch.arange(8))  # longer than the bank: its own rows go, too
    assert sorted(old.labels[old.labels >= 0].tolist()) == [0, 1, 2, 3, 4, 7, 8, 9]
    assert bank.exchange(rows[:0], torch.arange(0)).labels.shape == (0,)


# ------------------------------------------------------------------ the benchmark


@pytest.mark.parametrize("case", range(6))
def test_vmf_and_cosine_tell_better_than_the_average_where_all_noise_is_within_the_classes(
    benchmark, case
):
    areas = benchmark.probe(benchmark.CASES[case])
    if "500" in benchmark.CASES[case]:  # six rows are too few for a concentration
        assert areas["cosine"] > areas["average"] + 0.02
        return
    assert areas["vmf"] >= areas["average"]
    assert areas["cosine"] >= areas["average"]


def test_the_benchmark_prints_a_table_of_ratios():
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--classes", "20", "--memory", "200", "--batch", "16",
         "--dim", "8", "--repeats", "1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, rule, row = done.stdout.splitlines()
    assert head == "| classes | memory | batch | loop | full | ours | loop / ours | full / ours |"
    assert rule.count("---") == row.count("|") - 1 == 8
