"""What the console shows of a training."""

import sys
from collections.abc import Sequence

import keras
import numpy as np
from tqdm import tqdm

from kdflow.errors import KdflowError

Metrics = dict[str, float]


class Progress(keras.callbacks.Callback):
    """Moves a progress bar, prints a line per epoch, and stops at a loss that is not finite. Keras
    calls it once for all batches that ran together."""

    def __init__(self, bar: tqdm, epochs: int) -> None:
        super().__init__()
        self.bar, self.epochs = bar, epochs
        self.epoch = 0
        self.done_before = self.done = 0  # batches, before this epoch and in all

    def on_epoch_begin(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self.epoch += 1
        self.done_before = self.done

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        of_this_epoch = min(batch + 1, self.params["steps"])  # Keras counts on past the last one
        loss = float(logs["loss"])  # the mean of the epoch so far: NaN stays NaN
        if not np.isfinite(loss):
            raise KdflowError(
                f"expected a finite loss, got {loss} in epoch {self.epoch} of {self.epochs}, by"
                f" batch {of_this_epoch} of {self.params['steps']} (a smaller learning_rate may"
                " help)"
            )
        done = self.done_before + of_this_epoch
        self.bar.update(done - self.done)
        self.done = done

    def report(self, metrics: Metrics, shown: Sequence[str], watched: str) -> None:
        """Print the metrics of the epoch that has just ended.

        Args:
            shown: the metrics that are printed.
            watched: the one, on the validation images, that has to be finite: the last update of
                all can spoil the weights.
        """
        if not np.isfinite(metrics[watched]):
            raise KdflowError(
                f"expected a finite validation loss, got {metrics[watched]} after epoch"
                f" {self.epoch} of {self.epochs} (a smaller learning_rate may help)"
            )
        words = "  ".join(f"{name} {metrics[name]:.4f}" for name in shown)
        number = f"{self.epoch:>{len(str(self.epochs))}}/{self.epochs}"
        line = f"epoch {number}  {words}  {metrics['epoch_seconds']:.1f} s"
        self.bar.write(line, file=sys.stdout)
