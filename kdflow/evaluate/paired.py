"""Two classifiers on the same images: is one less accurate by more than a margin?"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from kdflow.evaluate.compare import CONFIDENCE, INCONCLUSIVE, WORSE

SAME = "SAME"


class Paired(NamedTuple):
    """A candidate's accuracy against a reference's, on the same images.

    Attributes:
        difference: candidate minus reference, -1 to 1.
        low, high: one-sided 95 % bounds, so that together they are a 90 % interval: a verdict rests
            on one of them.
        p_value: of McNemar's exact test, two-sided: both are right equally often.
        lost: images that the reference alone classifies correctly.
        gained: images that the candidate alone does.
        images: how many there are.
        verdict: SAME if `low` is -margin or more, WORSE if `high` is below it, else INCONCLUSIVE.
    """

    difference: float
    low: float
    high: float
    p_value: float
    lost: int
    gained: int
    images: int
    verdict: str

    def __str__(self) -> str:
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.difference:+.2f} [{low:+.2f}, {high:+.2f}] points"


def compare_paired(candidate: np.ndarray, reference: np.ndarray, margin: float) -> Paired:
    """Compare which images two classifiers get right.

    The interval is the score interval of Tango 1998, "Equivalence test and confidence interval for
    the difference in proportions for the paired-sample design"; unlike the usual one it does not
    shrink to nothing where both agree on every image. The test is McNemar 1947, exact.

    Args:
        candidate, reference: (images,) booleans, whether the class is right.
        margin: the largest loss of accuracy that is accepted, 0 to 1.

    Raises:
        ValueError: no images, or not as many of one as of the other.
    """
    if candidate.shape != reference.shape or candidate.size == 0:
        raise ValueError(
            f"expected the same images, one or more, got {candidate.shape} and {reference.shape}"
        )
    lost = int(np.sum(reference & ~candidate))
    gained = int(np.sum(candidate & ~reference))
    images = candidate.size
    low, high = _score_interval(gained, lost, images)
    p_value = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    verdict = SAME if low >= -margin else WORSE if high < -margin else INCONCLUSIVE
    difference = (gained - lost) / images
    return Paired(difference, low, high, p_value, lost, gained, images, verdict)


def _score_interval(gained: int, lost: int, images: int) -> tuple[float, float]:
    limit = float(norm.ppf(CONFIDENCE))
    observed = (gained - lost) / images
    score = _score(gained, lost, images)
    low, high = -1.0, 1.0
    if observed > -1:
        low = brentq(lambda delta: score(delta) - limit, -1 + 1e-12, observed, xtol=1e-12)
    if observed < 1:
        high = brentq(lambda delta: score(delta) + limit, observed, 1 - 1e-12, xtol=1e-12)
    return float(low), float(high)


def _score(gained: int, lost: int, images: int) -> Callable[[float], float]:
    """The score statistic of a true difference `delta`, which decreases with it. The share of lost
    images is the most likely one under that difference, the larger root of a quadratic."""

    def statistic(delta: float) -> float:
        a = 2 * images
        b = (2 * images + lost - gained) * delta - gained - lost
        c = -lost * delta * (1 - delta)
        share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = images * (2 * share + delta * (1 - delta))
        deviation = gained - lost - images * delta
        if variance > 0:
            return deviation / math.sqrt(variance)
        return math.copysign(math.inf, deviation) if deviation else 0.0

    return statistic
