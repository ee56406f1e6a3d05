"""How fast files answer."""

import itertools
import time

import numpy as np
import pytest

from kdflow.deploy import timing


class Clock:
    """A clock that goes on only while something answers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[str, int]] = []

    def answering(self, name: str, seconds_per_image: float) -> timing.Answer:
        def answer(pixels: np.ndarray) -> None:
            self.calls.append((name, len(pixels)))
            self.now += seconds_per_image * len(pixels)

        return answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    return made


def test_the_figures_are_those_of_the_clock(clock: Clock) -> None:
    answers = {"quick": clock.answering("quick", 0.001), "slow": clock.answering("slow", 0.5)}
    measured = timing.measure(answers, np.zeros((3, 8, 8, 1)))
    assert measured["quick"] == pytest.approx((1, 1, 1000))
    assert measured["slow"] == pytest.approx((500, 500, 2))
    assert {size for _, size in clock.calls} == {1, 32}


def test_p90_is_of_the_slowest_tenth(clock: Clock) -> None:
    durations = itertools.cycle([0.001] * 8 + [0.003] * 2)

    def answer(pixels: np.ndarray) -> None:
        clock.now += next(durations)

    (measured,) = timing.measure({"it": answer}, np.zeros((1, 8, 8, 1))).values()
    assert measured.median_ms == pytest.approx(1)
    assert measured.p90_ms == pytest.approx(3)


def test_each_has_its_turn_in_every_round_after_a_warm_up(clock: Clock) -> None:
    names = ("a", "b", "c")
    timing.measure({name: clock.answering(name, 0.1) for name in names}, np.zeros((1, 8, 8, 1)))
    single = [name for name, size in clock.calls if size == 1]
    warm_up = (timing.WARM_UP_CALLS + 1) * len(names)
    rounds = single[warm_up:]
    # a tenth of a second is one timed call a round, after one that is not timed
    assert len(rounds) == timing.ROUNDS * len(names) * 2
    turns = [rounds[start : start + 6 : 2] for start in range(0, len(rounds), 6)]
    assert all(sorted(turn) == list(names) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
