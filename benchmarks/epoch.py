"""What one epoch of distillation costs, against what a user would run instead.

    python benchmarks/epoch.py                    `student`: about eight minutes on two cores
    python benchmarks/epoch.py whitened fast

In alternation, in one process, on random images of CIFAR-10's shape. Each epoch ends with the
validation of a ninth as many images, as with `holdout=0.1`:

* plain: `fit` of the same network from labels alone, compiled as in Keras' documentation;
* kdflow: an epoch of `kdflow.training.loop.fit` from cached logits, everything in it included;
* augmented: the same in 50 views, mirrored and shifted by up to 2 pixels, each with its own logits;
* live: `keras.distillation.Distiller`, which runs the teacher `vgg` on every batch, on few of the
  images, with its time scaled up to all of them;
* torch: a loop of PyTorch from cached logits, channels last, where it is installed (extra `torch`)
  and Keras computes on the processor, as it does; torch bfloat16: the same under autocast, where
  the processor multiplies in bfloat16.

kdflow and Keras compute in what `precision=auto` stands for here; where that is bfloat16,
kdflow's epoch is timed in float32 too. kdflow validates in float32 in either. Each round runs all
in another order, since each run affects the one after it. Prints the images per second of each, and
the ratios of times round by round.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product

import kdflow  # noqa: F401 - first, since TensorFlow reads the variables that it sets

# isort: split
import keras
import numpy as np

from kdflow import network
from kdflow.catalogue.networks import NETWORKS
from kdflow.config.fitting import Settings
from kdflow.config.views import Views
from kdflow.dataset import Images
from kdflow.hardware import Precision, computes_on_processor, native_precision
from kdflow.precision import computing_in
from kdflow.training.loop import fit
from kdflow.training.objective import Distillation

VIEWS, TEACHER = 50, "vgg"


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        images: how many an epoch has.
        live: how many of them the live teacher sees.
    """

    images: int
    live: int
    rounds: int


TASKS = {
    "student": Task(45_000, 2_560, 15),
    "whitened": Task(9_216, 1_024, 8),
    "fast": Task(9_216, 1_024, 3),
    "fitnet": Task(8_192, 1_024, 5),
    "vgg": Task(1_024, 512, 5),
}


@dataclass(frozen=True)
class Data:
    """What is trained and validated on, in arrays of both.

    Attributes:
        images: uint8, (n, height, width, channels).
        labels: uint8, (n,).
        logits: a teacher's, (views, n, classes) float32.
        count: how many images are trained on. The others are validated on.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    count: int

    @classmethod
    def random(cls, count: int, validated: int) -> "Data":
        """Random data, with `count` images to train on and `validated` others."""
        rng, total = np.random.default_rng(0), count + validated
        return cls(
            rng.integers(0, 256, (total, 32, 32, 3), np.uint8),
            rng.integers(10, size=total).astype(np.uint8),
            rng.normal(0, 3, (VIEWS, total, 10)).astype(np.float32),
            count,
        )

    @property
    def train(self) -> Images:
        return Images(self.images, self.labels, np.arange(self.count))

    @property
    def validation(self) -> Images:
        return Images(self.images, self.labels, np.arange(self.count, len(self.images)))


def plain_fit(name: str, data: Data, batch_size: int) -> Callable[[], float]:
    model = network.build(name, data.train, 10, seed=0)
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return lambda: _seconds_of_fit(model, data, data.count, batch_size, [model])


def live_distiller(name: str, data: Data, batch_size: int, count: int) -> Callable[[], float]:
    teacher = network.build(TEACHER, data.train, 10, seed=0)
    student = network.build(name, data.train, 10, seed=0)
    distiller = keras.distillation.Distiller(
        teacher=teacher,
        student=student,
        distillation_losses=keras.distillation.LogitsDistillation(
            temperature=4.0, loss="kl_divergence"
        ),
        student_loss_weight=0.1,
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    networks = teacher, student
    return lambda: (
        _seconds_of_fit(distiller, data, count, batch_size, networks) * data.count / count
    )


def _seconds_of_fit(
    model: keras.Model, data: Data, count: int, batch_size: int, networks: Sequence[keras.Model]
) -> float:
    """The seconds of an epoch of `count` images, in which all `networks` compute in the native
    precision."""
    validation = slice(data.count, data.count + count // 9)
    started = time.perf_counter()
    with ExitStack() as in_precision:
        for each in networks:
            in_precision.enter_context(computing_in(native_precision(), each))
        model.fit(
            data.images[:count],
            data.labels[:count],
            batch_size=batch_size,
            validation_data=(data.images[validation], data.labels[validation]),
            verbose=0,
        )
    return time.perf_counter() - started


def distillation(
    name: str, data: Data, views: int, rounds: int, precision: Precision | None = None
) -> Callable[[], float]:
    """A function that trains for one epoch more, and returns the seconds that this took.

    Args:
        precision: if None, the native one.
    """
    recipe = NETWORKS[name].recipe
    epochs = fit(
        network.build(name, data.train, 10, seed=0),
        data.train,
        data.validation,
        Distillation(data.logits[:views], temp=4, alpha=0.9),
        Settings(
            recipe.optimizer,
            recipe.learning_rate,
            rounds + 1,
            recipe.batch_size,
            seed=0,
            views=Views(views),
            precision=precision or native_precision(),
        ),
    )

    def seconds() -> float:
        started = time.perf_counter()
        next(epochs)
        return time.perf_counter() - started

    return seconds


def epoch_timers(name: str, task: Task) -> dict[str, Callable[[], float]]:
    """By what it is called, a function that trains `name` for one epoch more and returns the
    seconds that this took."""
    data, batch_size = Data.random(task.images, task.images // 9), NETWORKS[name].recipe.batch_size
    epoch_of = {
        "plain": plain_fit(name, data, batch_size),
        "kdflow": distillation(name, data, 1, task.rounds),
        "augmented": distillation(name, data, VIEWS, task.rounds),
        "live": live_distiller(name, data, batch_size, task.live),
    }
    is_bfloat16 = native_precision() == "bfloat16"
    if is_bfloat16:
        epoch_of["kdflow float32"] = distillation(name, data, 1, task.rounds, "float32")
    if not computes_on_processor():
        print("torch is left out: it would compute on the processor, and Keras does not")
        return epoch_of
    if not find_spec("torch"):
        print("torch is not installed, so it is left out (pip install -e '.[torch]')")
        return epoch_of
    import pytorch

    trained = network.build(name, data.train, 10, seed=0).trainable_weights
    counts = sum(math.prod(it.shape) for it in trained), pytorch.trained_parameters(name)
    if counts[0] != counts[1]:
        raise SystemExit(f"torch: expected {counts[0]:,} trained parameters, got {counts[1]:,}")
    given = name, data.images, data.labels, data.logits[0], data.count, batch_size
    epoch_of["torch"] = pytorch.distillation(*given)
    if is_bfloat16:
        epoch_of["torch bfloat16"] = pytorch.distillation(*given, bfloat16=True)
    return epoch_of


def in_alternation(
    epoch_of: Mapping[str, Callable[[], float]], rounds: int
) -> list[dict[str, float]]:
    """The seconds of each function in each round, by name. The order changes from round to round; a
    first round, which traces the graphs, is left out."""
    order, shuffle = list(epoch_of), random.Random(0).shuffle
    measured = []
    for _ in range(rounds + 1):
        shuffle(order)
        measured.append({name: epoch_of[name]() for name in order})
    return measured[1:]


def show(name: str, values: list[float]) -> None:
    median = statistics.median(values)
    print(
        f"{name:36} median {median:9.2f}  min {min(values):9.2f}  max {max(values):9.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(TASKS)}", default=["student"])
    parser.add_argument("--rounds", type=int, help="how often each is timed")
    given = parser.parse_args()
    for name in given.networks:
        task = TASKS[name]
        task = replace(task, rounds=given.rounds or task.rounds)
        epoch_of = epoch_timers(name, task)
        counted = in_alternation(epoch_of, task.rounds)
        print(f"{name} in {native_precision()}:")
        for each in epoch_of:
            show(f"{each}, images per second", [task.images / it[each] for it in counted])
        for ours, other in product(("kdflow", "augmented"), epoch_of):
            if other not in ("kdflow", "augmented"):
                show(f"{ours} / {other}", [each[ours] / each[other] for each in counted])


if __name__ == "__main__":
    main()
