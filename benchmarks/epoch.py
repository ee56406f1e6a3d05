"""What one epoch of distillation costs, against what a user would run instead.

    python benchmarks/epoch.py

In alternation, in one process, on 45,000 random images of CIFAR-10's shape:

* plain: `fit` of the same student from labels alone, compiled as in Keras' documentation;
* kdflow: an epoch of `kdflow.training.fit` from cached logits, everything in it included;
* live: `keras.distillation.Distiller`, with the teacher `vgg` answering in every batch, on 2,560 of
  the images, and its time scaled up to all of them.

Prints the seconds of each and the ratios pair by pair. About three minutes on two cores.
"""

import statistics
import time

import keras
import numpy as np

from kdflow import models, training

IMAGES, BATCH, ROUNDS = 45_000, 64, 7
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


def main() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    labels = rng.integers(10, size=IMAGES).astype(np.uint8)
    teacher_logits = rng.normal(0, 3, (1, IMAGES, 10)).astype(np.float32)
    plain, live = plain_student(images), live_distiller(images)
    seconds: dict[str, list[float]] = {"plain": [], "kdflow": [], "live": []}

    def timed_fit(network: keras.Model, count: int) -> float:
        started = time.perf_counter()
        network.fit(images[:count], labels[:count], batch_size=BATCH, verbose=0)
        return (time.perf_counter() - started) * IMAGES / count

    ended = time.perf_counter()

    def between_epochs(epoch: int, metrics: training.Metrics) -> None:
        nonlocal ended
        seconds["kdflow"].append(time.perf_counter() - ended)
        seconds["plain"].append(timed_fit(plain, IMAGES))
        seconds["live"].append(timed_fit(live, LIVE_IMAGES))
        ended = time.perf_counter()

    everything = training.Images(images, labels, np.arange(IMAGES))
    training.fit(
        models.build("student", images, 10, seed=0),
        everything,
        training.Images(images, labels, np.arange(BATCH)),
        optimizer="adam",
        learning_rate=0.001,
        epochs=ROUNDS + 1,
        batch_size=BATCH,
        seed=0,
        distillation=training.Distillation(teacher_logits, temp=4, alpha=0.9),
        on_epoch=between_epochs,
    )

    counted = {name: values[1:] for name, values in seconds.items()}  # the first traces the graph
    for name, values in counted.items():
        show(f"{name}, seconds per {IMAGES:,} images", values)
    for other in ("plain", "live"):
        ratios = [a / b for a, b in zip(counted["kdflow"], counted[other], strict=True)]
        show(f"kdflow / {other}", ratios)


def show(name: str, values: list[float]) -> None:
    median = statistics.median(values)
    print(f"{name:36} median {median:8.3f}  min {min(values):8.3f}  max {max(values):8.3f}")


if __name__ == "__main__":
    main()
