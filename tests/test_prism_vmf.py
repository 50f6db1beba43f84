"""The von Mises-Fisher density: against exact values, closed forms and worked examples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive

from labelsieve.methods.prism.centers import (
    class_sums,
    clean_log_probability,
    log_likelihoods,
)
from labelsieve.methods.prism.vmf import concentration, log_bessel, vmf_log_constant

IDEAL = np.load(Path(__file__).parent / "golden" / "prism" / "ideal_vmf.npz")


@pytest.mark.parametrize("at", range(8), ids=[f"d={d}" for d in IDEAL["dims"]])
def test_log_constant_is_that_of_fifty_digits(at):
    dim, expected = int(IDEAL["dims"][at]), IDEAL["logC"][at]
    found = vmf_log_constant(torch.from_numpy(IDEAL["kappas"]), dim).numpy()
    tolerance = 1e-9 if dim >= 512 else 2e-8
    assert np.abs(found - expected).max() < tolerance


def test_log_constant_in_three_dimensions_has_its_closed_form():
    kappa = torch.tensor([0.01, 0.5, 2.0, 30.0], dtype=torch.float64)
    expected = (kappa / (4 * math.pi * kappa.sinh())).log()
    assert torch.allclose(vmf_log_constant(kappa, 3), expected, atol=2e-8, rtol=0)


@given(order=st.floats(0, 60), value=st.floats(0.5, 200))
def test_log_bessel_is_scipys_where_that_does_not_underflow(order, value):
    expected = ive(order, value)
    if expected > 1e-280:
        found = log_bessel(order, torch.tensor([value])).item()
        value = torch.tensor([value]).item()  # as float32 has it
        assert found == pytest.approx(math.log(ive(order, value)) + value, abs=1e-7)


def test_log_constant_is_finite_where_plain_bessel_functions_underflow():
    kappa = torch.tensor([0.0, 1e-3, 10.0, 1e6])
    assert ive(511, 10.0) == 0  # 1024 wide
    for dim in (2, 512, 1024, 4096):
        found = vmf_log_constant(kappa, dim)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert (found.diff() <= 0).all()


@pytest.mark.parametrize("width", ["d16", "d128"])
def test_probabilities_of_worked_examples_with_the_plain_concentration(width):
    x = {key: torch.from_numpy(IDEAL[f"{width}_{key}"]) for key in
         ("R", "mu", "kappa", "logC", "P_vmf", "P_avg", "feats", "labels")}  # fmt: skip
    dim = x["mu"].shape[1]
    assert torch.allclose(concentration(x["R"], dim), x["kappa"], rtol=1e-12)
    assert torch.allclose(vmf_log_constant(x["kappa"], dim), x["logC"], atol=1e-7, rtol=0)
    centers, present = x["R"][:, None] * x["mu"], torch.ones(len(x["R"])).bool()
    for score, expected in (("vmf", x["P_vmf"]), ("average", x["P_avg"])):
        log_p = clean_log_probability(x["feats"], x["labels"], centers, present, score=score)
        assert torch.allclose(log_p.exp(), expected, atol=1e-7, rtol=0), score


def test_centers_of_the_worked_example_are_the_means_of_its_memory():
    memory, labels = torch.from_numpy(IDEAL["d16_mem_feats"]), IDEAL["d16_mem_labels"]
    sums, counts = class_sums(memory, torch.from_numpy(labels), 10)
    lengths = (sums / counts[:, None]).norm(dim=1)
    assert torch.allclose(lengths, torch.from_numpy(IDEAL["d16_R"]), atol=1e-12, rtol=0)


def test_vmf_ranks_as_the_average_does_when_all_classes_are_equally_tight():
    generator = torch.Generator().manual_seed(0)
    centers = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=1) * 0.6
    rows = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=1)
    labels, present = torch.arange(40) % 5, torch.ones(5).bool()
    kappa = concentration(torch.tensor([0.6]), 8).item()
    vmf = clean_log_probability(
        rows, labels, centers, present, score="vmf", temperature=kappa / 0.6
    )
    average = clean_log_probability(rows, labels, centers, present, score="average")
    assert torch.allclose(vmf, average, atol=1e-5)


def test_concentration_of_random_rows_is_near_zero_and_not_that_of_one_over_n():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(400, 10, 64, generator=generator), dim=2)
    lengths, counts = rows.mean(dim=1).norm(dim=1), torch.full((400,), 10)
    assert concentration(lengths, 64).median() > 20
    assert concentration(lengths, 64, counts).median() < 10


def test_classes_of_few_rows_have_the_median_concentration_of_the_others():
    lengths, counts = torch.tensor([0.5, 0.6, 0.7, 1.0, 0.9, 0.0]), torch.tensor([9, 9, 9, 1, 2, 0])
    found = concentration(lengths, 32, counts)
    assert found[3] == found[4] == found[5] == found[1]
    assert found[0] < found[1] < found[2]


def test_no_class_with_three_rows_gives_one_finite_concentration_to_all():
    found = concentration(torch.tensor([1.0, 0.8, 0.0]), 32, torch.tensor([1, 2, 0]))
    assert found.isfinite().all()
    assert len(set(found.tolist())) == 1


def test_equal_rows_have_a_large_and_finite_concentration():
    found = concentration(torch.tensor([1.0, 0.995]), 32, torch.tensor([50, 50]))
    assert found.isfinite().all()
    assert found[0] >= found[1] > 1000


def test_likelihoods_from_sums_are_those_from_means():
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 0.3
    counts, present = torch.tensor([5, 1, 7, 0]), torch.tensor([True, True, True, False])
    rows = torch.nn.functional.normalize(torch.randn(9, 6, generator=generator).double(), dim=1)
    for score in ("average", "cosine", "vmf"):
        means = log_likelihoods(rows, centers, present, score=score, counts=counts)
        sums = log_likelihoods(
            rows, centers * counts[:, None], present, score=score, counts=counts,
            weights=counts.double(),
        )  # fmt: skip
        assert torch.allclose(means, sums)
        assert (means[:, 3] == -torch.inf).all()
        assert means[:, :3].isfinite().all()
