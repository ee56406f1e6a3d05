"""What one epoch of distillation costs, against what a user would run instead.

    python benchmarks/epoch.py

In alternation, in one process, on 45,000 random images of CIFAR-10's shape:

* plain: `fit` of the same student from labels alone, compiled as in Keras' documentation;
* kdflow: an epoch of `kdflow.training.fit` from cached logits, everything in it included;
* augmented: the same in 50 views, mirrored and shifted by up to 2 pixels, each with its own logits;
* live: `keras.distillation.Distiller`, with the teacher `vgg` answering in every batch, on 2,560 of
  the images, and its time scaled up to all of them.

Each round takes the four in another order, since what ran before changes what the next one finds.
Prints the seconds of each and the ratios round by round. About eight minutes on two cores.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable

import keras
import numpy as np

from kdflow import models, training

IMAGES, BATCH, ROUNDS, VIEWS = 45_000, 64, 15, 50
LIVE_IMAGES = 40 * BATCH


def plain_student(images: np.ndarray) -> keras.Model:
    student = models.build("student", images, 10, seed=0)
    student.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    return student


def live_distiller(images: np.ndarray) -> keras.Model:
    distiller = keras.distillation.Distiller(
        teacher=models.build("vgg", images, 10, seed=0),
        student=models.build("student", images, 10, seed=0),
        distillation_losses=keras.distillation.LogitsDistillation(
            temperature=4.0, loss="kl_divergence"
        ),
        student_loss_weight=0.1,
    )
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return distiller


class Distillation:
    """A `training.fit` that runs an epoch when it is told to."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, view_count: int) -> None:
        self.go, self.ended = threading.Semaphore(0), threading.Semaphore(0)
        logits = np.random.default_rng(1).normal(0, 3, (view_count, len(images), 10))
        self.data = training.Images(images, labels, np.arange(len(images)))
        self.view_count, self.logits = view_count, logits.astype(np.float32)
        threading.Thread(target=self._fit, daemon=True).start()

    def seconds(self) -> float:
        started = time.perf_counter()
        self.go.release()
        self.ended.acquire()
        return time.perf_counter() - started

    def _fit(self) -> None:
        self.go.acquire()
        training.fit(
            models.build("student", self.data.images, 10, seed=0),
            self.data,
            training.Images(self.data.images, self.data.labels, np.arange(BATCH)),
            optimizer="adam",
            learning_rate=0.001,
            epochs=ROUNDS + 2,  # never the last one, after which the thread would end
            batch_size=BATCH,
            seed=0,
            view_count=self.view_count,
            distillation=training.Distillation(self.logits, temp=4, alpha=0.9),
            on_epoch=self._pause,
        )

    def _pause(self, epoch: int, metrics: training.Metrics) -> None:
        self.ended.release()
        self.go.acquire()


def main() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    labels = rng.integers(10, size=IMAGES).astype(np.uint8)
    plain, live = plain_student(images), live_distiller(images)

    def seconds_of_fit(network: keras.Model, count: int) -> float:
        started = time.perf_counter()
        network.fit(images[:count], labels[:count], batch_size=BATCH, verbose=0)
        return (time.perf_counter() - started) * IMAGES / count

    epoch_of: dict[str, Callable[[], float]] = {
        "plain": lambda: seconds_of_fit(plain, IMAGES),
        "kdflow": Distillation(images, labels, view_count=1).seconds,
        "augmented": Distillation(images, labels, view_count=VIEWS).seconds,
        "live": lambda: seconds_of_fit(live, LIVE_IMAGES),
    }
    order, shuffle = list(epoch_of), random.Random(0).shuffle
    rounds = []
    for _ in range(ROUNDS + 1):
        shuffle(order)
        rounds.append({name: epoch_of[name]() for name in order})
    counted = rounds[1:]  # the first one traces the graphs
    for name in epoch_of:
        show(f"{name}, seconds per {IMAGES:,} images", [each[name] for each in counted])
    for name, other in (("kdflow", "plain"), ("augmented", "plain"), ("kdflow", "live")):
        show(f"{name} / {other}", [each[name] / each[other] for each in counted])


def show(name: str, values: list[float]) -> None:
    median = statistics.median(values)
    print(f"{name:36} median {median:8.3f}  min {min(values):8.3f}  max {max(values):8.3f}")


if __name__ == "__main__":
    main()
