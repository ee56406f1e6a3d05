"""The training loop, as a generator: whoever runs it logs, prunes or stops between epochs."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
from keras import ops
from tqdm import tqdm

from kdflow.config.training import Settings
from kdflow.dataset import Images
from kdflow.evaluate.metrics import accuracy, batches, nll, predict_logits
from kdflow.training.objective import Objective
from kdflow.training.optimizers import OPTIMIZERS
from kdflow.training.order import epoch_data
from kdflow.training.progress import Metrics, Progress
from kdflow.training.schedules import SCHEDULES
from kdflow.training.speed import batches_at_once

Epoch = tuple[int, Metrics]


def fit(
    network: keras.Model,
    train: Images,
    validation: Images,
    objective: Objective,
    settings: Settings,
) -> Iterator[Epoch]:
    """Train `network` in place; yields each epoch, from 1, with its metrics.

    The order of the images in epoch e, and the view of each, are a pure function of (seed, e).

    Args:
        network: from uint8 images to logits.
        validation: what `val_loss` (the labels' cross-entropy in nats, whatever is minimised) and
            `val_accuracy` are computed on after each epoch.

    Raises:
        KdflowError: the loss became NaN or infinite; names the epoch and by which batch.
    """
    steps = settings.epochs * len(batches(train.indices, settings.batch_size))
    rate = SCHEDULES[settings.schedule](settings.learning_rate, steps)
    learner = _Learner(network, objective)
    learner.compile(
        optimizer=OPTIMIZERS[settings.optimizer](rate, steps),
        steps_per_execution=batches_at_once(network, settings.batch_size),
    )

    def data(epoch: int) -> dict[str, Any]:
        images, targets = epoch_data(train, objective, settings.views, settings.seed, epoch)
        return {"x": images, "y": targets, "batch_size": settings.batch_size}

    with tqdm(total=steps, unit="batch", disable=None, leave=False) as bar:
        progress = Progress(bar, settings.epochs)
        for epoch in range(1, settings.epochs + 1):
            means, speed = run_epoch(learner, partial(data, epoch), len(train.indices), progress)
            trained = {f"train_{name}": mean for name, mean in means.items()}
            metrics = trained | _validate(network, validation) | speed
            shown = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
            progress.report(metrics, shown, watched="val_loss")
            yield epoch, metrics


def run_epoch(
    learner: keras.Model, data: Callable[[], dict[str, Any]], images: int, progress: Progress
) -> tuple[Metrics, Metrics]:
    """Train for one epoch; returns the means that `learner` has tracked, and the speed.

    Args:
        learner: compiled.
        data: returns what `learner.fit` takes, in its final order.
        images: how many the epoch has.
    """
    started = time.perf_counter()
    learning_rate = float(learner.optimizer.learning_rate)
    # the data is kept in no variable: the next epoch's would need fresh memory, which is slow
    log = learner.fit(**data(), shuffle=False, verbose=0, callbacks=[progress]).history
    seconds = time.perf_counter() - started
    return {name: values[0] for name, values in log.items()}, {
        "learning_rate": learning_rate,
        "epoch_seconds": seconds,
        "images_per_second": images / seconds,
    }


def _validate(network: keras.Model, validation: Images) -> Metrics:
    labels = validation.labels[validation.indices]
    logits = predict_logits(network, validation.images[validation.indices])
    return {"val_loss": nll(logits, labels), "val_accuracy": accuracy(logits, labels)}


class _Learner(keras.Model):
    """A network with an objective in place of a compiled loss."""

    def __init__(self, network: keras.Model, objective: Objective) -> None:
        super().__init__(name="learner")
        self.network = network
        self.objective = objective
        self.means = {name: keras.metrics.Mean(name) for name in ("accuracy", *objective.reported)}

    def call(self, images, training=None):  # type: ignore[no-untyped-def]
        return self.network(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]
        terms = self.objective.terms(y, y_pred)
        loss = ops.mean(terms.pop("loss"))
        for regulariser in self.losses:
            loss = loss + regulariser
        correct = ops.equal(ops.argmax(y_pred, axis=-1), y["labels"])
        for name, values in {"accuracy": correct, **terms}.items():
            self.means[name].update_state(values)
        return loss
