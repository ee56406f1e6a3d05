"""Two classifiers on the same images."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import norm

from kdflow.evaluate.paired import Paired, compare_paired

Z = norm.ppf(0.95)


def compared(both: int, lost: int, gained: int, neither: int, margin: float = 0.01) -> Paired:
    """The comparison of classifiers of which that many images are right."""
    counts = [both, lost, gained, neither]
    reference = np.repeat([True, True, False, False], counts)
    candidate = np.repeat([True, False, True, False], counts)
    return compare_paired(candidate, reference, margin)


def score(lost: int, gained: int, images: int, delta: float) -> float:
    """Tango's statistic, with the most likely share of lost images found by a search."""

    def minus_log_likelihood(share: float) -> float:
        shares = (share + delta, share, 1 - 2 * share - delta)
        counts = (gained, lost, images - gained - lost)
        return -float(np.sum(xlogy(counts, np.maximum(shares, 1e-300))))

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    options = {"xatol": 1e-13, "maxiter": 1000}
    share = minimize_scalar(
        minus_log_likelihood, bounds=bounds, method="bounded", options=options
    ).x
    deviation = gained - lost - images * delta
    return float(deviation / np.sqrt(images * (2 * share + delta * (1 - delta))))


@pytest.mark.parametrize(
    ("both", "lost", "gained", "neither"),
    [(300, 6, 2, 52), (9000, 80, 60, 860), (36, 12, 2, 0), (20, 1, 9, 10)],
)
def test_at_the_bounds_the_score_is_the_one_sided_limit(
    both: int, lost: int, gained: int, neither: int
) -> None:
    result = compared(both, lost, gained, neither)
    images = both + lost + gained + neither
    assert result.difference == pytest.approx((gained - lost) / images)
    assert result.low < result.difference < result.high
    assert score(lost, gained, images, result.low) == pytest.approx(Z, abs=2e-3)
    assert score(lost, gained, images, result.high) == pytest.approx(-Z, abs=2e-3)


@pytest.mark.parametrize("images", [30, 360, 10_000])
def test_equal_answers_on_few_images_prove_less_than_on_many(images: int) -> None:
    result = compared(images - 5, 0, 0, 5)
    # without discordant images the score is n d^2 / (d (1 - d)), whose limit is z^2 / (n + z^2)
    reach = Z**2 / (images + Z**2)
    assert (result.low, result.high) == pytest.approx((-reach, reach), rel=1e-6)
    assert result.verdict == ("INCONCLUSIVE" if images == 30 else "SAME")
    assert result.p_value == 1


def test_the_bounds_hold_in_19_of_20_experiments() -> None:
    rng = np.random.default_rng(0)
    truth = 0.02 - 0.05
    shares = [0.85, 0.05, 0.02, 0.08]
    counts = rng.multinomial(400, shares, size=2000)
    results = [compared(*row.tolist()) for row in np.unique(counts, axis=0)]
    by_counts = {(r.lost, r.gained): r for r in results}
    drawn = [by_counts[(row[1], row[2])] for row in counts]
    assert np.mean([r.low <= truth for r in drawn]) == pytest.approx(0.95, abs=0.015)
    assert np.mean([r.high >= truth for r in drawn]) == pytest.approx(0.95, abs=0.015)


def test_mcnemars_p_value_is_that_of_a_fair_coin() -> None:
    # 1 of 6: (1 + 6) / 64 on each side
    assert compared(90, 5, 1, 4).p_value == pytest.approx(2 * 7 / 64)


@pytest.mark.parametrize(
    ("counts", "margin", "verdict"),
    [
        ((9000, 40, 40, 920), 0.01, "SAME"),
        ((9000, 400, 40, 560), 0.01, "WORSE"),
        ((9000, 400, 40, 560), 0.05, "SAME"),
        ((9000, 140, 40, 820), 0.01, "INCONCLUSIVE"),
        ((9000, 40, 140, 820), 0.0, "SAME"),  # better
        ((9000, 40, 40, 920), 0.0, "INCONCLUSIVE"),
        ((0, 10, 0, 0), 0.5, "WORSE"),
        ((0, 0, 10, 0), 0.0, "SAME"),
    ],
)
def test_the_verdict_is_on_the_margin(
    counts: tuple[int, int, int, int], margin: float, verdict: str
) -> None:
    assert compared(*counts, margin=margin).verdict == verdict


def test_in_words_it_is_in_percentage_points() -> None:
    assert str(compared(300, 6, 2, 52)).startswith("-1.11 [-2.")


@pytest.mark.parametrize("sizes", [(3, 4), (0, 0)])
def test_what_is_not_paired_is_refused(sizes: tuple[int, int]) -> None:
    candidate, reference = (np.ones(size, bool) for size in sizes)
    with pytest.raises(ValueError, match="expected the same images, one or more"):
        compare_paired(candidate, reference, 0.01)
