"""What is believed of labels before a classifier is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelsieve.errors import DataError
from labelsieve.methods.sncf.beliefs import Beliefs
from labelsieve.records import Verdict
from made_findings import made_findings, random_findings

CLEAN, MISLABELED, FOREIGN, BROKEN = Verdict


@given(seed=st.integers(0, 9999), n=st.integers(1, 30))
def test_findings_become_beliefs_of_the_same_verdicts(seed, n):
    findings = random_findings(n, 4, seed)
    verdict = findings.probabilities.argmax(1).astype(np.int8)  # theirs are drawn apart
    verdict[findings.verdict == BROKEN] = BROKEN
    findings = replace(findings, verdict=verdict)
    beliefs = Beliefs.of_findings(findings)
    known = findings.verdict != BROKEN
    assert len(beliefs) == n
    assert (beliefs.verdict[known] == findings.verdict[known]).all()
    assert (beliefs.verdict[~known] == FOREIGN).all()
    np.testing.assert_allclose(beliefs.kinds[known], findings.probabilities[known], atol=1e-6)
    np.testing.assert_allclose(beliefs.kinds.sum(1), 1, atol=1e-5)
    assert not np.isnan(beliefs.suggestion_probability).any()
    assert (beliefs.suggestion == findings.suggestion).all()
    assert (beliefs.foreign_group == findings.foreign_group).all()
    assert not beliefs.certain.any()
    assert beliefs.kinds.dtype == np.float32


def test_an_image_without_label_is_never_clean():
    findings = made_findings(
        [CLEAN, FOREIGN], [-1, -1], probabilities=[[0.7, 0.1, 0.2], [0.2, 0, 0.8]],
        suggestion=[2, -1],
    )  # fmt: skip
    beliefs = Beliefs.of_findings(findings)
    np.testing.assert_allclose(beliefs.kinds, [[0, 0.8, 0.2], [0, 0.2, 0.8]], atol=1e-6)
    assert beliefs.verdict.tolist() == [MISLABELED, FOREIGN]


def test_what_a_person_decided_is_certain():
    findings = made_findings(
        [MISLABELED, FOREIGN, CLEAN, BROKEN], [0, 1, 2, 0],
        probabilities=[[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4], [1, 0, 0]],
    )  # fmt: skip
    certain = np.array([True, False, True, True])
    beliefs = Beliefs.of_findings(findings, certain)
    assert beliefs.kinds[0].tolist() == [0, 1, 0]
    np.testing.assert_allclose(beliefs.kinds[1], [0.6, 0.3, 0.1], atol=1e-6)
    assert beliefs.kinds[2].tolist() == [1, 0, 0]
    assert beliefs.kinds[3].tolist() == [0, 0, 1]
    assert beliefs.certain.tolist() == certain.tolist()


def test_the_findings_stay_as_they_are():
    findings = random_findings(
        40,
        3,
        1,
    )
    before = findings.probabilities.copy()
    Beliefs.of_findings(findings, np.ones(40, bool))
    np.testing.assert_array_equal(findings.probabilities, before)


def test_trust_calls_every_label_right_and_none_clean_without():
    beliefs = Beliefs.trusting(np.array([2, -1, 0]))
    assert beliefs.verdict.tolist() == [CLEAN, MISLABELED, CLEAN]
    assert beliefs.kinds.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert repr(beliefs) == "Beliefs(3 images: 2 clean, 1 mislabeled, 0 foreign)"


def test_of_equal_probabilities_the_first_kind_is_the_verdict():
    beliefs = replace(
        Beliefs.trusting(np.array([0, 1])),
        kinds=np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]], np.float32),
    )
    assert beliefs.verdict.tolist() == [CLEAN, MISLABELED]
    assert beliefs.verdict.dtype == np.int8


def test_columns_that_do_not_fit_are_refused():
    good = Beliefs.trusting(np.array([0, 1, -1]))
    with pytest.raises(DataError, match="beliefs of 3 images with columns of other lengths"):
        replace(good, certain=np.zeros(2, bool))
    with pytest.raises(DataError, match=r"kinds of shape \(3, 2\); expected \(3, 3\)"):
        replace(good, kinds=np.full((3, 2), 0.5, np.float32))
    with pytest.raises(DataError, match="the probabilities of each image sum to 1"):
        replace(good, kinds=np.full((3, 3), 0.5, np.float32))
    with pytest.raises(DataError, match="the probabilities of each image sum to 1"):
        replace(good, kinds=np.full((3, 3), np.nan, np.float32))
    with pytest.raises(DataError, match="row 2 has no label and is 0.50 clean; expected 0"):
        replace(good, kinds=np.array([[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0]], np.float32))
