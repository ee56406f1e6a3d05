import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdflow.evaluate.compare import BEATS, INCONCLUSIVE, WORSE, Comparison, compare, estimate, holm


def test_an_interval_of_a_worked_case() -> None:
    # mean 2, standard deviation 1, n = 3: 2 +- t(0.975, 2) / sqrt(3), and t(0.975, 2) = 4.302653
    mean, low, high = estimate([1, 2, 3])
    assert (mean, low, high) == pytest.approx((2, 2 - 2.484138, 2 + 2.484138), abs=1e-6)


def test_a_comparison_is_paired() -> None:
    # seeds differ by far more than the two sides do, and always the same way
    baseline = [0.60, 0.65, 0.70, 0.75, 0.80]
    candidate = [0.611, 0.659, 0.711, 0.759, 0.811]
    result = compare(candidate, baseline)
    assert result.verdict == BEATS
    assert result.candidate.low < result.baseline.mean
    assert compare(baseline, candidate).verdict == WORSE
    # the differences are .011 .009 .011 .009 .011: mean .0102, standard deviation .0010954
    half = 2.776445 * 0.0010954451 / np.sqrt(5)
    assert result.difference == pytest.approx((0.0102, 0.0102 - half, 0.0102 + half), abs=1e-7)
    t = 0.0102 / (0.0010954451 / np.sqrt(5))
    assert result.p_value == pytest.approx(2 * (1 - stats.t.cdf(t, 4)), rel=1e-3)


def test_noise_about_as_large_as_the_gain_is_inconclusive() -> None:
    assert compare([0.70, 0.72, 0.69], [0.69, 0.70, 0.70]).verdict == INCONCLUSIVE


@pytest.mark.parametrize("gain", [0.0, 0.01, -0.01])
def test_differences_without_spread_prove_nothing(gain: float) -> None:
    result = compare([0.5 + gain, 0.6 + gain], [0.5, 0.6])
    assert result.verdict == INCONCLUSIVE
    assert result.difference.mean == pytest.approx(gain)
    assert compare([0.6, 0.6], [0.5, 0.5]).candidate == (0.6, 0.6, 0.6)


@pytest.mark.parametrize(("candidate", "baseline"), [([1.0], [1.0]), ([], []), ([1, 2], [1, 2, 3])])
def test_too_few_or_unequally_many_results_are_refused(
    candidate: list[float], baseline: list[float]
) -> None:
    with pytest.raises(ValueError, match=f"got {len(candidate)} and {len(baseline)}"):
        compare(candidate, baseline)


@pytest.mark.parametrize("seeds", [2, 3, 5, pytest.param(10, marks=pytest.mark.slow)])
def test_of_comparisons_of_pure_noise_at_most_5_percent_have_a_verdict(seeds: int) -> None:
    # accuracies on 10,000 test images of two students that are equally good; the seeds share
    # some of their luck. The count is binomial: what is refused here is 5 % within its noise.
    rng = np.random.default_rng(seeds)
    comparisons = 800
    verdicts = []
    for _ in range(comparisons):
        shared = rng.normal(0.7, 0.005, seeds)
        sides = [
            (rng.binomial(10_000, shared + rng.normal(0, 0.003, seeds)) / 10_000).tolist()
            for _ in range(2)
        ]
        verdicts.append(compare(*sides).verdict)
    found = comparisons - verdicts.count(INCONCLUSIVE)
    assert stats.binomtest(found, comparisons, 0.05, alternative="greater").pvalue > 0.01
    assert verdicts.count(BEATS) > 0
    assert verdicts.count(WORSE) > 0


def test_a_real_gain_is_found() -> None:
    rng = np.random.default_rng(0)
    verdicts = [
        compare(*(rng.normal(mean, 0.005, 5).tolist() for mean in (0.72, 0.70))).verdict
        for _ in range(200)
    ]
    assert verdicts.count(BEATS) > 180


def test_several_comparisons_are_corrected_after_holm() -> None:
    # sorted, .005 * 4, .01 * 3, .03 * 2, .04 * 1, and none smaller than the one before it
    p_values = [0.01, 0.04, 0.03, 0.005]
    some = compare([0.70, 0.72, 0.69], [0.69, 0.70, 0.70])
    verdicts = [BEATS, BEATS, WORSE, WORSE]
    single = [
        some._replace(p_value=p, verdict=verdict)
        for p, verdict in zip(p_values, verdicts, strict=True)
    ]
    corrected = holm(single)
    assert [each.p_value for each in corrected] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [each.verdict for each in corrected] == [BEATS, INCONCLUSIVE, INCONCLUSIVE, WORSE]
    assert holm(single[:1]) == single[:1]


THOUSANDTHS = st.lists(st.integers(0, 1000), min_size=1, max_size=8)


def of_p_values(thousandths: list[int]) -> list[Comparison]:
    """Comparisons that have nothing but their p-values and a verdict."""
    some = compare([0.70, 0.72, 0.69], [0.69, 0.70, 0.70])
    return [some._replace(p_value=p / 1000, verdict=BEATS) for p in thousandths]


@given(THOUSANDTHS)
def test_corrected_p_values_keep_their_order_and_are_none_smaller(thousandths: list[int]) -> None:
    single = of_p_values(thousandths)
    corrected = holm(single)
    for before, after in zip(single, corrected, strict=True):
        assert before.p_value <= after.p_value <= 1
        assert after._replace(p_value=0, verdict="") == before._replace(p_value=0, verdict="")
        for other_before, other_after in zip(single, corrected, strict=True):
            if before.p_value <= other_before.p_value:
                assert after.p_value <= other_after.p_value


@given(THOUSANDTHS, st.integers(0, 999))
def test_at_any_level_the_rejections_are_those_of_the_step_down_procedure(
    thousandths: list[int], level: int
) -> None:
    # Holm 1979: the smallest p-value against alpha / m, the next against alpha / (m - 1), and so
    # on until the first that is larger. Half a thousandth keeps p-values off the level.
    alpha = (level + 0.5) / 1000
    rejected = set()
    by_size = sorted(range(len(thousandths)), key=thousandths.__getitem__)
    for step, index in enumerate(by_size):
        if thousandths[index] / 1000 > alpha / (len(thousandths) - step):
            break
        rejected.add(index)
    corrected = holm(of_p_values(thousandths))
    assert {i for i, each in enumerate(corrected) if each.p_value <= alpha} == rejected


@given(THOUSANDTHS)
def test_a_verdict_stays_where_the_corrected_p_value_is_below_5_percent(
    thousandths: list[int],
) -> None:
    for each in holm(of_p_values(thousandths)):
        if not np.isclose(each.p_value, 0.05):
            assert each.verdict == (BEATS if each.p_value < 0.05 else INCONCLUSIVE)
