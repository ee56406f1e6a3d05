"""Predictions against chance, by hand-worked cases and by simulation."""

from itertools import permutations
from math import comb

import numpy as np
import pytest

from kdflow.evaluate.chance import against_chance, alignment


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
