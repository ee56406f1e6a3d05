"""How long a network's work takes on this machine."""

import time
from functools import cache

import keras

from kdflow import interrupts
from kdflow.dataset import Images
from kdflow.hardware import Precision
from kdflow.kernels import fast_kernels
from kdflow.precision import computing_in
from kdflow.size import multiply_adds

CALL_SECONDS = 0.1  # at the speed of a large matrix product, so a few times as long in fact
BATCH_SECONDS = 0.002  # the least that any batch takes
SIDE, PRODUCTS = 1024, 10  # of the matrices that are multiplied to measure that speed; how often
SAMPLED_SECONDS = 1.0


def batches_at_once(network: keras.Model, batch_size: int) -> int:
    """How many batches are trained on in one call from Python: many of a small network, since a
    call then takes a tenth of the time; one of a large network, since only between calls the
    progress bar moves and Ctrl-C is handled. The weights do not depend on it."""
    multiplications = 3 * multiply_adds(network) * batch_size  # forwards, and twice backwards
    seconds = max(multiplications / multiplications_per_second(), BATCH_SECONDS)
    return max(1, int(CALL_SECONDS / seconds))


@cache
def multiplications_per_second(dtype: Precision = "float32") -> float:
    """How fast Keras multiplies large matrices on this machine: more than any network reaches."""
    matrix = keras.ops.ones((SIDE, SIDE), dtype)

    def seconds() -> float:
        started = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(matrix, matrix))
        return time.perf_counter() - started

    return SIDE**3 / min(seconds() for _ in range(PRODUCTS))


def seconds_per_image(
    network: keras.Model, train: Images, batch_size: int, precision: Precision = "float32"
) -> float:
    """How long training takes on this machine, measured on a few batches. This changes the
    network's weights."""
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    chosen = train.indices[:batch_size]
    batch = train.images[chosen], train.labels[chosen]
    with (
        interrupts.delayed_to_the_end(),
        computing_in(precision, network),
        fast_kernels(network),
    ):
        network.train_on_batch(*batch)  # traces the graph
        network.train_on_batch(*batch)
        count, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SAMPLED_SECONDS:
            network.train_on_batch(*batch)
            count += 1
    return elapsed / (count * len(chosen))
