"""How fast files and networks answer, measured in turn, since a machine's speed drifts."""

import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

BATCH = 32
WARM_UP_CALLS, ROUNDS, SECONDS_PER_ROUND, CALLS_PER_ROUND = 5, 15, 0.02, 20

Answer = Callable[[np.ndarray], object]
K = TypeVar("K")


class Speed(NamedTuple):
    """How fast a file or a network answers.

    Attributes:
        median_ms, p90_ms: of one image, in milliseconds.
        images_per_second: in batches of 32, the median.
    """

    median_ms: float
    p90_ms: float
    images_per_second: float


def measure(answers: Mapping[K, Answer], pixels: np.ndarray) -> dict[K, Speed]:
    """Measure all of them on the same images, after a warm-up, in rounds in which each has its turn
    in another order.

    Args:
        answers: by name, a function of a batch of pixels.
        pixels: (images, height, width, channels); as many as needed are used, again if need be.
    """
    one = _in_turn(answers, pixels[:1])
    many = np.resize(pixels, (BATCH, *pixels.shape[1:]))
    batches = _in_turn(answers, many)
    return {
        name: Speed(
            1000 * float(np.median(one[name])),
            1000 * float(np.quantile(one[name], 0.9)),
            BATCH / float(np.median(batches[name])),
        )
        for name in answers
    }


def _in_turn(answers: Mapping[K, Answer], pixels: np.ndarray) -> dict[K, list[float]]:
    """The seconds of each call, by name."""
    counts = {name: _calls_per_round(answer, pixels) for name, answer in answers.items()}
    seconds: dict[K, list[float]] = {name: [] for name in answers}
    order, shuffled = list(answers), random.Random(0)
    for _ in range(ROUNDS):
        shuffled.shuffle(order)
        for name in order:
            answers[name](pixels)  # after its predecessor the caches are cold
            seconds[name] += [_timed(answers[name], pixels) for _ in range(counts[name])]
    return seconds


def _calls_per_round(answer: Answer, pixels: np.ndarray) -> int:
    for _ in range(WARM_UP_CALLS):
        answer(pixels)
    return max(1, min(CALLS_PER_ROUND, int(SECONDS_PER_ROUND / _timed(answer, pixels))))


def _timed(answer: Answer, pixels: np.ndarray) -> float:
    started = time.perf_counter()
    answer(pixels)
    return time.perf_counter() - started
