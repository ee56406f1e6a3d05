"""What one epoch of distillation costs, against what a user would run instead.

    python benchmarks/epoch.py

In alternation, in one process, on 45,000 random images of CIFAR-10's shape:

* plain: `fit` of the same student from labels alone, compiled as in Keras' documentation;
* kdflow: an epoch of `kdflow.training.loop.fit` from cached logits, everything in it included;
* augmented: the same in 50 views, mirrored and shifted by up to 2 pixels, each with its own logits;
* live: `keras.distillation.Distiller`, which runs the teacher `vgg` on every batch, on 2,560 of the
  images, with its time scaled up to all of them.

Each round runs the four in another order, since each run affects the one after it.
Prints the seconds of each and the ratios round by round. About eight minutes on two cores.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np

from kdflow import network
from kdflow.config.fitting import Settings
from kdflow.dataset import Images
from kdflow.training.loop import fit
from kdflow.training.objective import Distillation

IMAGES, BATCH, ROUNDS, VIEWS = 45_000, 64, 15, 50
LIVE_IMAGES = 40 * BATCH


def plain_student(train: Images) -> keras.Model:
    student = network.build("student", train, 10, seed=0)
    student.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return student


def live_distiller(train: Images) -> keras.Model:
    distiller = keras.distillation.Distiller(
        teacher=network.build("vgg", train, 10, seed=0),
        student=network.build("student", train, 10, seed=0),
        distillation_losses=keras.distillation.LogitsDistillation(
            temperature=4.0, loss="kl_divergence"
        ),
        student_loss_weight=0.1,
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller


def distillation(train: Images, view_count: int) -> Callable[[], float]:
    """A function that trains for one epoch more, and returns the seconds that this took."""
    shape = (view_count, len(train.images), 10)
    logits = np.random.default_rng(1).normal(0, 3, shape).astype(np.float32)
    epochs = fit(
        network.build("student", train, 10, seed=0),
        train,
        Images(train.images, train.labels, np.arange(BATCH)),
        Distillation(logits, temp=4, alpha=0.9),
        Settings("adam", 0.001, ROUNDS + 1, BATCH, seed=0, views=view_count),
    )

    def seconds() -> float:
        started = time.perf_counter()
        next(epochs)
        return time.perf_counter() - started

    return seconds


def main() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    labels = rng.integers(10, size=IMAGES).astype(np.uint8)
    train = Images(images, labels, np.arange(IMAGES))
    plain, live = plain_student(train), live_distiller(train)

    def seconds_of_fit(model: keras.Model, count: int) -> float:
        started = time.perf_counter()
        model.fit(images[:count], labels[:count], batch_size=BATCH, verbose=0)
        return (time.perf_counter() - started) * IMAGES / count

    epoch_of: dict[str, Callable[[], float]] = {
        "plain": lambda: seconds_of_fit(plain, IMAGES),
        "kdflow": distillation(train, view_count=1),
        "augmented": distillation(train, view_count=VIEWS),
        "live": lambda: seconds_of_fit(live, LIVE_IMAGES),
    }
    counted = in_alternation(epoch_of, ROUNDS)
    for name in epoch_of:
        show(f"{name}, seconds per {IMAGES:,} images", [each[name] for each in counted])
    for name, other in (("kdflow", "plain"), ("augmented", "plain"), ("kdflow", "live")):
        show(f"{name} / {other}", [each[name] / each[other] for each in counted])


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
    print(f"{name:36} median {median:8.3f}  min {min(values):8.3f}  max {max(values):8.3f}")


if __name__ == "__main__":
    main()
