"""n seeds against n seeds: is the difference more than the noise between seeds?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95

BEATS, INCONCLUSIVE, WORSE = "BEATS", "INCONCLUSIVE", "WORSE"


class Estimate(NamedTuple):
    """A mean and the interval that covers the true one in 95 of 100 experiments."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.mean:.4f} [no interval, since all seeds agree]"
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


class Comparison(NamedTuple):
    """A candidate's results compared with a baseline's.

    Attributes:
        difference: candidate minus baseline, paired by seed.
        p_value: of the two-sided test of no difference; 1 where all differences are equal.
        verdict: BEATS or WORSE if the interval of the difference excludes 0, else INCONCLUSIVE.
            It is INCONCLUSIVE too where all differences are equal, and `holm` may make it so.
    """

    candidate: Estimate
    baseline: Estimate
    difference: Estimate
    p_value: float
    verdict: str


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of two or more independent results with its Student t interval, which is empty where
    they are all the same."""
    mean = float(np.mean(values))
    if _all_the_same(values):
        return Estimate(mean, mean, mean)
    interval = stats.ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    return Estimate(mean, float(interval.low), float(interval.high))


def compare(candidate: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare results of the same seeds by a paired t-test.

    Differences that are all the same tell nothing about their spread, so they are INCONCLUSIVE:
    with few seeds and few test images that happens by chance.

    Args:
        candidate, baseline: one result per seed, larger is better, in the same order of seeds.

    Raises:
        ValueError: fewer than two seeds, or not as many of one as of the other.
    """
    if len(candidate) != len(baseline) or len(candidate) < 2:
        raise ValueError(
            "expected as many results of the candidate as of the baseline, at least 2, got"
            f" {len(candidate)} and {len(baseline)}"
        )
    differences = np.subtract(candidate, baseline).tolist()
    difference, p_value, verdict = estimate(differences), 1.0, INCONCLUSIVE
    if not _all_the_same(differences):
        p_value = float(stats.ttest_rel(candidate, baseline).pvalue)
        verdict = BEATS if difference.low > 0 else WORSE if difference.high < 0 else INCONCLUSIVE
    return Comparison(estimate(candidate), estimate(baseline), difference, p_value, verdict)


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with p-values and verdicts corrected for being several, so that one or
    more wrong verdicts among them come out in at most 5 of 100 experiments (Holm 1979, "A Simple
    Sequentially Rejective Multiple Test Procedure"). The intervals stay those of each alone.
    """
    corrected = list(comparisons)
    largest = 0.0
    by_p_value = sorted(range(len(comparisons)), key=lambda index: comparisons[index].p_value)
    for rank, index in enumerate(by_p_value):
        single = comparisons[index]
        largest = max(largest, min(1.0, (len(comparisons) - rank) * single.p_value))
        verdict = single.verdict if largest < 1 - CONFIDENCE else INCONCLUSIVE
        corrected[index] = single._replace(p_value=largest, verdict=verdict)
    return corrected


def _all_the_same(values: Sequence[float]) -> bool:
    return float(np.ptp(values)) < 1e-12
