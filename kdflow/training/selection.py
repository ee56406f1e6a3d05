"""Which epoch's weights a training ends with, and when it stops early: by validation alone."""

from collections.abc import Sequence

import keras
import numpy as np

from kdflow.config.fitting import Settings
from kdflow.training.progress import Metrics


def best_epoch(history: Sequence[Metrics], keep: str) -> int:
    """The number of the epoch with the largest `val_accuracy` (keep=best_accuracy), else with the
    smallest `val_loss`; the earliest of equals, and 0 where no epoch has run."""
    if not history:
        return 0
    if keep == "best_accuracy":
        return int(np.argmax([metrics["val_accuracy"] for metrics in history])) + 1
    return int(np.argmin([metrics["val_loss"] for metrics in history])) + 1


def is_over(history: Sequence[Metrics], settings: Settings) -> bool:
    """Whether `patience` epochs have run since the best one."""
    if not settings.patience:
        return False
    return len(history) - best_epoch(history, settings.keep) >= settings.patience


class Averages:
    """The exponential moving average of a learner's weights, which its optimiser updates. Within
    the block the learner has the averages, and afterwards its own weights again.

    Args:
        learner: compiled; the optimiser may have no averages.
    """

    def __init__(self, learner: keras.Model) -> None:
        self.learner = learner

    def __enter__(self) -> None:
        if self.learner.optimizer.use_ema:
            self._own = [keras.ops.convert_to_numpy(it) for it in self.learner.trainable_variables]
            self.take()

    def __exit__(self, *_: object) -> None:
        if self.learner.optimizer.use_ema:
            for variable, own in zip(self.learner.trainable_variables, self._own, strict=True):
                variable.assign(own)

    def take(self) -> None:
        """Give the learner the averages."""
        optimizer = self.learner.optimizer
        if optimizer.use_ema:
            # that of the class, since `make_optimizer` has replaced the optimiser's own
            type(optimizer).finalize_variable_values(optimizer, self.learner.trainable_variables)
            for variable in self.learner.trainable_variables:
                # a copy, since JAX deletes what it is given
                variable.assign(keras.ops.convert_to_numpy(variable).copy())
