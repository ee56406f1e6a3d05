"""The one fit loop that every step trains through."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from kdflow import views
from kdflow.errors import KdflowError
from kdflow.evaluate import accuracy, nll, predict_logits
from kdflow.losses import cross_entropy, distillation_loss

Metrics = dict[str, float]
OnEpoch = Callable[[int, Metrics], None]

OPTIMIZERS: dict[str, Callable[[float], keras.Optimizer]] = {
    "adam": lambda rate: keras.optimizers.Adam(rate),
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
}

# The time that a training will take is told after these batches, if it is long enough to matter.
WARM_UP_BATCHES, TIMED_BATCHES = 3, 10
WORTH_TELLING = 120  # seconds


@dataclass(frozen=True)
class Images:
    """Images and labels in the data set's own order, and which of them to use.

    Attributes:
        images: uint8, (n, height, width, channels).
        labels: integers, (n,).
        indices: the chosen ones, (m,).
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True)
class Distillation:
    """What a student learns from besides labels; see `losses.distillation_loss`.

    Attributes:
        teacher_logits: (views, n, classes), n in the order of `Images`.
        views: how many of those views the student is trained on.
    """

    teacher_logits: np.ndarray
    temp: float
    alpha: float
    t_squared: bool = True
    views: int = 1


def fit(
    network: keras.Model,
    train: Images,
    validation: Images,
    *,
    optimizer: str,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    distillation: Distillation | None = None,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
) -> list[Metrics]:
    """Train `network` in place, from labels or, with `distillation`, from a teacher's logits too.

    The order of the images in epoch e, and the view of each, are a pure function of (seed, e).

    Args:
        network: from uint8 images to logits.
        validation: what `val_loss` (the labels' cross-entropy in nats, whatever is minimised) and
            `val_accuracy` are computed on after each epoch.
        on_epoch: called with the epoch, from 1, and its metrics.

    Returns:
        The metrics of each epoch.

    Raises:
        KdflowError: the loss became NaN or infinite; names the epoch and the batch.
    """
    learner = _Learner(network, distillation)
    learner.compile(optimizer=OPTIMIZERS[optimizer](learning_rate))
    batches = -(-len(train.indices) // batch_size)
    history = []
    with tqdm(total=epochs * batches, unit="batch", disable=None, leave=False) as bar:
        for epoch in range(1, epochs + 1):
            images, targets = epoch_data(train, distillation, seed, epoch)
            started = time.perf_counter()
            log = learner.fit(
                images,
                targets,
                batch_size=batch_size,
                shuffle=False,
                verbose=0,
                callbacks=[_Watch(bar, epoch, epochs)],
            ).history
            seconds = time.perf_counter() - started
            metrics = {
                **{f"train_{name}": values[0] for name, values in log.items()},
                **_validate(network, validation),
                "learning_rate": float(learner.optimizer.learning_rate),
                "epoch_seconds": seconds,
                "images_per_second": len(images) / seconds,
            }
            history.append(metrics)
            on_epoch(epoch, metrics)
            bar.write(_epoch_line(epoch, epochs, metrics), file=sys.stdout)
    return history


def epoch_order(
    indices: np.ndarray, seed: int, epoch: int, view_count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The images of an epoch in their order, and the view in which each is shown.

    Args:
        indices: (m,), the images to choose from.

    Returns:
        Two arrays of (m,) integers: a permutation of `indices`, and the views, 0 to
        `view_count` - 1. Both follow from (seed, epoch) alone.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(indices)
    return order, rng.integers(view_count, size=len(order))


def epoch_data(
    train: Images, distillation: Distillation | None, seed: int, epoch: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the network sees in an epoch, in order: the images, each in its view, and the targets,
    which are their `labels` and, of just those views, the `teacher_logits`."""
    view_count = distillation.views if distillation else 1
    order, shown = epoch_order(train.indices, seed, epoch, view_count)
    images = train.images[order]
    if view_count > 1:
        images = views.apply(images, shown)
    targets = {"labels": train.labels[order]}
    if distillation:
        logits = distillation.teacher_logits[shown, order]
        targets["teacher_logits"] = logits.astype(np.float32)
    return images, targets


def _validate(network: keras.Model, validation: Images) -> Metrics:
    labels = validation.labels[validation.indices]
    logits = predict_logits(network, validation.images[validation.indices])
    return {"val_loss": nll(logits, labels), "val_accuracy": accuracy(logits, labels)}


def _epoch_line(epoch: int, epochs: int, metrics: Metrics) -> str:
    shown = "  ".join(
        f"{name} {metrics[name]:.4f}"
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    )
    return f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {shown}  {metrics['epoch_seconds']:.1f} s"


class _Learner(keras.Model):
    """A network with the distillation loss in place of a compiled one. Only its weights train."""

    def __init__(self, network: keras.Model, distillation: Distillation | None) -> None:
        super().__init__(name="learner")
        self.network = network
        self.distillation = distillation
        self.means = {"accuracy": keras.metrics.Mean("accuracy")}
        if distillation:
            self.means["hard_loss"] = keras.metrics.Mean("hard_loss")
            self.means["soft_loss"] = keras.metrics.Mean("soft_loss")

    def call(self, images, training=None):  # type: ignore[no-untyped-def]
        return self.network(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]
        labels = y["labels"]
        correct = ops.equal(ops.argmax(y_pred, axis=-1), labels)
        self.means["accuracy"].update_state(correct)
        if self.distillation is None:
            return ops.mean(cross_entropy(labels, y_pred))
        loss = distillation_loss(
            labels,
            y["teacher_logits"],
            y_pred,
            temp=self.distillation.temp,
            alpha=self.distillation.alpha,
            t_squared=self.distillation.t_squared,
        )
        self.means["hard_loss"].update_state(loss.hard)
        self.means["soft_loss"].update_state(loss.soft)
        return ops.mean(loss.total)


class _Watch(keras.callbacks.Callback):
    """Moves the progress bar, tells how long a long training will take, and stops at a loss that
    is no number."""

    def __init__(self, bar: tqdm, epoch: int, epochs: int) -> None:
        super().__init__()
        self.bar, self.epoch, self.epochs = bar, epoch, epochs
        self.timed_from = 0.0

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        loss = float(logs["loss"])  # the mean of the epoch so far: NaN stays NaN
        if not np.isfinite(loss):
            raise KdflowError(
                f"expected a finite loss, got {loss} in epoch {self.epoch} of {self.epochs}, batch"
                f" {batch + 1} of {self.params['steps']} (a smaller learning_rate may help)"
            )
        self.bar.update()
        if self.epoch == 1:
            self._estimate(batch + 1)

    def _estimate(self, batches: int) -> None:
        if batches == WARM_UP_BATCHES:
            self.timed_from = time.perf_counter()
        elif batches == WARM_UP_BATCHES + TIMED_BATCHES:
            per_batch = (time.perf_counter() - self.timed_from) / TIMED_BATCHES
            expected = per_batch * self.params["steps"] * self.epochs
            if expected > WORTH_TELLING:
                message = f"this training will take about {expected / 60:.0f} minutes"
                self.bar.write(message, file=sys.stdout)
