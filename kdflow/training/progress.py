"""What the console shows of a training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
from tqdm import tqdm

from kdflow import interrupts
from kdflow.errors import KdflowError

if TYPE_CHECKING:
    from kdflow.training.state import State

Metrics = dict[str, float]


class Progress(keras.callbacks.Callback):
    """Moves a progress bar, prints a line per epoch, keeps the state of a long epoch, and stops at
    a loss that is not finite. Keras calls it once for all batches that ran together."""

    def __init__(self, bar: tqdm, epochs: int, batches: int, state: State) -> None:
        super().__init__()
        self.bar, self.epochs, self.batches, self.state = bar, epochs, batches, state
        self.done = 0  # batches of this call of `fit`

    def on_epoch_begin(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self.done = 0

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        done = min(batch + 1, self.params["steps"])  # Keras counts on past the last one
        loss = float(logs["loss"])  # the mean of the epoch so far: NaN stays NaN
        if not np.isfinite(loss):
            epoch, reached = len(self.state.history) + 1, self.state.batches + done
            raise KdflowError(
                f"expected a finite loss, got {loss} in epoch {epoch} of {self.epochs}, by batch"
                f" {reached} of {self.batches} (a smaller learning_rate may help)"
            )
        self.bar.update(done - self.done)
        self.done = done
        if self.state.batches + done < self.batches:
            self.state.within_epoch(done, {name: float(value) for name, value in logs.items()})
            interrupts.raise_if_due()

    def report(self, epoch: int, metrics: Metrics, shown: Sequence[str], watched: str) -> None:
        """Print the metrics of the epoch that has just ended.

        Args:
            shown: the metrics that are printed.
            watched: the one, on the validation images, that has to be finite: the last update of
                all can spoil the weights.
        """
        if not np.isfinite(metrics[watched]):
            raise KdflowError(
                f"expected a finite validation loss, got {metrics[watched]} after epoch"
                f" {epoch} of {self.epochs} (a smaller learning_rate may help)"
            )
        words = "  ".join(f"{name} {metrics[name]:.4f}" for name in shown)
        number = f"{epoch:>{len(str(self.epochs))}}/{self.epochs}"
        line = f"epoch {number}  {words}  {metrics['epoch_seconds']:.1f} s"
        self.bar.write(line, file=sys.stdout)
