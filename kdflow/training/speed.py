"""How long a network's work takes on this machine."""

import time

import keras
import numpy as np

from kdflow import interrupts
from kdflow.dataset import Images
from kdflow.hardware import Precision
from kdflow.precision import computing_in
from kdflow.size import multiply_adds

AT_ONCE, WORK_AT_ONCE = 16, 4e9  # batches and multiplications, at most: a fifth of a second
SAMPLED_SECONDS = 1.0


def batches_at_once(network: keras.Model, batch_size: int) -> int:
    """How many batches are trained on in one call from Python: many of a small network, since a
    call then takes a tenth of the time; one of a large network, since only between calls the
    progress bar moves and Ctrl-C is handled."""
    per_batch = multiply_adds(network) * batch_size
    return max(1, min(AT_ONCE, int(WORK_AT_ONCE / max(per_batch, 1))))


def seconds_per_image(
    network: keras.Model, train: Images, batch_size: int, precision: Precision = "float32"
) -> float:
    """How long training takes on this machine, measured on a few batches. This changes the
    network's weights."""
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    chosen = np.resize(train.indices, batch_size)
    batch = train.images[chosen], train.labels[chosen]
    with interrupts.delayed_to_the_end(), computing_in(precision, network):
        network.train_on_batch(*batch)  # traces the graph
        network.train_on_batch(*batch)
        count, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < SAMPLED_SECONDS:
            network.train_on_batch(*batch)
            count += 1
    return elapsed / (count * batch_size)
