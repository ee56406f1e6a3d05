"""Predictions against chance, by hand-worked cases and by simulation."""

from itertools import permutations
from math import comb

import numpy as np
import pytest

from kdflow.evaluate.chance import (
    against_chance,
    alignment,
    is_clearly_better,
    other_class_order,
)


def test_the_p_value_is_the_binomial_tail_of_the_most_frequent_labels_share() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    predicted = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 0])  # 8 of 10, where 6 of 10 are class 0
    result = against_chance(predicted, labels)
    tail = sum(comb(10, k) * 0.6**k * 0.4 ** (10 - k) for k in (8, 9, 10))
    assert (result.accuracy, result.majority) == (0.8, 0.6)
    assert result.p_value == pytest.approx(tail)


def test_a_constant_is_no_better_than_chance_and_a_good_teacher_is() -> None:
    labels = np.repeat([0, 1], [900, 100])
    assert not against_chance(np.zeros(1000, int), labels).is_better
    assert against_chance(labels, labels).is_better
    assert not against_chance(1 - labels, labels).is_better


def test_mean_and_deviation_of_the_agreement_are_those_over_all_orders() -> None:
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    agreeing = [(np.array(order) == labels).sum() for order in permutations(predicted)]
    found = alignment(predicted, labels)
    assert found.agreeing == 3
    assert found.most == max(agreeing)
    assert found.expected == pytest.approx(np.mean(agreeing))
    assert found.deviation == pytest.approx(np.std(agreeing))
    assert found.above_chance == pytest.approx((3 - np.mean(agreeing)) / np.std(agreeing))


def test_where_all_orders_agree_equally_no_order_is_above_chance() -> None:
    one_class = alignment(np.array([0, 1, 1, 0]), np.zeros(4, int))
    assert (one_class.above_chance, one_class.deviation, one_class.skill) == (0, 0, 0)


def test_clearly_better_is_mcnemars_exact_test() -> None:
    for gained, lost in ((10, 0), (9, 0), (30, 10), (30, 11), (0, 40)):
        other = np.repeat([True, False, True, False], [gained, lost, 50, 50])
        given = np.repeat([False, True, True, False], [gained, lost, 50, 50])
        n = gained + lost
        tail = sum(comb(n, k) for k in range(gained, n + 1)) / 2**n
        assert is_clearly_better(other, given) == (tail < 0.001)
    assert not is_clearly_better(np.ones(20, bool), np.ones(20, bool))


def test_the_order_that_fits_better_is_found() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 400)
    noisy = np.where(rng.random(400) < 0.2, rng.integers(0, 4, 400), labels)
    order = np.array([0, 2, 1, 3])  # of a swap, its own inverse
    found = other_class_order(order[noisy], labels, 4)
    assert found is not None
    assert found.classes.tolist() == order.tolist()
    assert found.other_accuracy == pytest.approx(0.85, abs=0.08)
    assert found.accuracy == pytest.approx(0.43, abs=0.08)
    assert other_class_order(noisy, labels, 4) is None


def test_an_order_that_fits_only_by_chance_is_none() -> None:
    """With many classes the best order is always better on the images it is found on."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        predicted, labels = rng.integers(0, 100, (2, 500))
        assert other_class_order(predicted, labels, 100) is None
