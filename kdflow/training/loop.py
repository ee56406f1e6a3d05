"""The training loop, as a generator: its caller logs, prunes or stops between epochs."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from kdflow import interrupts
from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.config.fitting import Settings
from kdflow.dataset import Images
from kdflow.evaluate.metrics import accuracy, nll, predict_logits
from kdflow.image_file import batch_count, batches_in_part
from kdflow.kernels import fast_kernels
from kdflow.pipeline import errors_of_batches, in_batches
from kdflow.precision import computing_in
from kdflow.training.objective import Objective
from kdflow.training.optimizers import make_optimizer
from kdflow.training.order import epoch_data
from kdflow.training.progress import Metrics, Progress
from kdflow.training.selection import Averages, best_epoch, is_over
from kdflow.training.speed import batches_at_once
from kdflow.training.state import State

Epoch = tuple[int, Metrics]


class Loop:
    """The epochs of a training that have yet to run: iterating trains one and gives its number, the
    means that the learner has tracked, and its speed. Then `finish_epoch` is to be called with the
    epoch's metrics.

    Args:
        learner: compiled.
        network: what it trains.
        data: from (epoch, first batch, end batch), the end excluded, to what `learner.fit` takes
            for these batches, in their final order.
        images: how many an epoch has.
        part: how many batches `data` is asked for at a time.
        checkpoint: where the state is kept, from which an interrupted training resumes.

    Attributes:
        history: the metrics of the epochs that ran before an interrupt.
    """

    def __init__(
        self,
        learner: keras.Model,
        network: keras.Model,
        data: Callable[[int, int, int], dict[str, Any]],
        images: int,
        part: int,
        settings: Settings,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.learner, self.network, self.data = learner, network, data
        self.images, self.settings = images, settings
        self.batches = batch_count(images, settings.batch_size)
        self.part = part
        self.state = State(learner, checkpoint)
        self.history = list(self.state.history)

    def __iter__(self) -> Iterator[tuple[int, Metrics, Metrics]]:
        steps = self.settings.epochs * self.batches
        done = len(self.history) * self.batches + self.state.batches
        with tqdm(total=steps, initial=done, unit="batch", disable=None, leave=False) as bar:
            self.progress = Progress(bar, self.settings.epochs, self.batches, self.state)
            for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
                if is_over(self.state.history, self.settings):
                    best = best_epoch(self.state.history, self.settings.keep)
                    words = f"early stopping: no epoch is better than epoch {best}"
                    bar.write(f"{words} (patience {self.settings.patience})", sys.stdout)
                    return
                yield epoch, *self._run(epoch)

    def _run(self, epoch: int) -> tuple[Metrics, Metrics]:
        state = self.state
        state.begin(float(self.learner.optimizer.learning_rate))
        while state.batches < self.batches:
            end = min(state.batches + self.part, self.batches)
            data = partial(self.data, epoch, state.batches, end)
            # the data is kept in no variable: the next would need fresh memory, which is slow
            with (
                interrupts.delayed(),
                errors_of_batches(),
                computing_in(self.settings.precision, self.network),
                fast_kernels(self.network),
            ):
                log = self.learner.fit(
                    **data(), shuffle=False, verbose=0, callbacks=[self.progress]
                )
            images = min(end * self.settings.batch_size, self.images)
            state.end_part(
                {name: values[0] for name, values in log.history.items()},
                trained=images - state.batches * self.settings.batch_size,
                batches=end,
                images=images,
            )
        seconds = state.elapsed()
        return state.means, {
            "learning_rate": state.learning_rate,
            "epoch_seconds": seconds,
            "images_per_second": self.images / seconds,
        }

    def finish_epoch(
        self, epoch: int, metrics: Metrics, shown: Sequence[str], watched: str
    ) -> Epoch:
        """Print the metrics of the epoch that has just run, keep the state after it, and return
        both.

        Args:
            shown, watched: see `Progress.report`.
        """
        self.progress.report(epoch, metrics, shown, watched)
        self.state.end_epoch(metrics)
        interrupts.raise_if_due()
        return epoch, metrics


def fit(
    network: keras.Model,
    train: Images,
    validation: Images,
    objective: Objective,
    settings: Settings,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Epoch]:
    """Train `network` in place; yields each epoch, from 1, with its metrics. After the last one,
    the network has the weights that `settings.keep` asks for.

    The order of the images in epoch e, and the view of each, are a pure function of (seed, e).

    Args:
        network: from uint8 images to logits.
        validation: what `val_loss` (the labels' cross-entropy in nats, whatever is minimised) and
            `val_accuracy` are computed on after each epoch.
        checkpoint: where the state is kept; epochs that are complete there are yielded, not run
            again.

    Raises:
        KdflowError: the loss became NaN or infinite; names the epoch and by which batch.
    """
    learner = _Learner(network, objective)
    learner.compile(
        optimizer=make_optimizer(settings, batch_count(len(train.indices), settings.batch_size)),
        steps_per_execution=batches_at_once(network, settings.batch_size),
    )

    def arrays(epoch: int, first: int, end: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        part = slice(first * settings.batch_size, end * settings.batch_size)
        return epoch_data(
            train,
            objective,
            settings.views,
            seed=settings.seed,
            epoch=epoch,
            part=part,
        )

    def data(epoch: int, first: int, end: int) -> dict[str, Any]:
        return in_batches(*arrays(epoch, first, end), batch_size=settings.batch_size)

    images, targets = arrays(1, 0, 1)
    part = batches_in_part(images.nbytes + sum(array.nbytes for array in targets.values()))
    del images, targets
    loop = Loop(
        learner,
        network,
        data,
        images=len(train.indices),
        part=part,
        settings=settings,
        checkpoint=checkpoint,
    )
    averages = Averages(learner)
    yield from enumerate(loop.history, start=1)
    for epoch, means, speed in loop:
        trained = {f"train_{name}": mean for name, mean in means.items()}
        with averages:
            metrics = trained | _validate(network, validation) | speed
            history = [*loop.state.history, metrics]
            if settings.keep != "last" and best_epoch(history, settings.keep) == epoch:
                loop.state.best = network.get_weights()
        shown = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        yield loop.finish_epoch(epoch, metrics, shown, watched="val_loss")
    averages.take()
    if loop.state.best:
        network.set_weights(loop.state.best)


def _validate(network: keras.Model, validation: Images) -> Metrics:
    labels = validation.labels[validation.indices]
    logits = predict_logits(network, validation.images, validation.indices)
    return {"val_loss": nll(logits, labels), "val_accuracy": accuracy(logits, labels)}


class _Learner(keras.Model):
    """A network with an objective in place of a compiled loss."""

    def __init__(self, network: keras.Model, objective: Objective) -> None:
        super().__init__(name="learner")
        self.network = network
        self.objective = objective
        self.means = {name: keras.metrics.Mean(name) for name in ("accuracy", *objective.reported)}

    def call(self, images, training=None):  # type: ignore[no-untyped-def]
        logits = self.network(images, training=training)
        return ops.cast(logits, "float32")  # a user's own file may give another type

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]
        terms = self.objective.terms(y, y_pred)
        loss = ops.mean(terms.pop("loss"))
        for regulariser in self.losses:
            loss = loss + regulariser
        correct = ops.equal(ops.argmax(y_pred, axis=-1), y["labels"])
        for name, values in {"accuracy": correct, **terms}.items():
            self.means[name].update_state(values)
        return loss
