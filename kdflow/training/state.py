"""The state of a training, from which it resumes bit for bit."""

import time

import keras
import numpy as np

from kdflow import interrupts
from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.training.progress import Metrics

KEEP_EVERY = 120  # seconds, within a long epoch


class State:
    """Keeps all that the rest of a training depends on: the network's weights and statistics, its
    random generators, the optimiser's variables, the metrics so far, and the position in the epoch.

    Args:
        learner: a compiled model, which is set to the state that was kept, if there is one.
        checkpoint: where the state is kept; None keeps nothing.

    Attributes:
        history: the metrics of the epochs that are complete.
        batches: how many batches of the next epoch are done, up to the end of a part or to an
            interrupt.
        means: the means over the images of these batches.
        learning_rate: that of the epoch's first step.
        best: the network's weights after the best epoch, where they are to be kept.
    """

    def __init__(self, learner: keras.Model, checkpoint: Checkpoint | None) -> None:
        self.learner, self.checkpoint = learner, checkpoint
        self.history: list[Metrics] = []
        self.learning_rate = 0.0
        self.means: Metrics = {}
        self.best: list[np.ndarray] = []
        self._clear_epoch()
        self._restore()
        self.kept_at = time.monotonic()

    def begin(self, learning_rate: float) -> None:
        """Start the epoch, or go on in it."""
        self.started = time.perf_counter()
        if not self.batches:
            self.learning_rate = learning_rate

    def elapsed(self) -> float:
        """The seconds that the epoch has taken so far, before an interrupt too."""
        return self.seconds + time.perf_counter() - self.started

    def end_part(self, means: Metrics, *, trained: int, batches: int, images: int) -> None:
        """Count a part of the epoch as done, in memory.

        Args:
            means: of the part.
            trained: how many images the part has.
            batches, images: how many are done with it, from the epoch's beginning.
        """
        self.means = self._with_earlier(means, trained, images)
        self.batches = batches

    def _with_earlier(self, means: Metrics, trained: int, whole: int) -> Metrics:
        """The means from the epoch's beginning.

        Args:
            means: of what followed the batches that are done.
            trained: how many images, or batches, these means are of.
            whole: how many there were from the epoch's beginning, in the same unit.
        """
        if not self.batches:
            return means
        share = trained / whole
        return {k: share * mean + (1 - share) * self.means[k] for k, mean in means.items()}

    def end_epoch(self, metrics: Metrics) -> None:
        """Keep the state after an epoch."""
        self.history.append(metrics)
        self._clear_epoch()
        self._keep(self.batches, self.means, self.seconds)

    def within_epoch(self, batches: int, means: Metrics) -> None:
        """Keep the state of a long epoch every two minutes, and before an interrupt takes effect.

        Args:
            batches, means: since the part of the epoch began.
        """
        if interrupts.is_due() or time.monotonic() - self.kept_at > KEEP_EVERY:
            done = self.batches + batches
            self._keep(done, self._with_earlier(means, batches, done), self.elapsed())

    def _clear_epoch(self) -> None:
        self.batches, self.seconds, self.means = 0, 0.0, {}

    def _keep(self, batches: int, means: Metrics, seconds: float) -> None:
        self.kept_at = time.monotonic()
        if self.checkpoint is None:
            return
        if hasattr(self.learner, "jax_state_sync"):  # within `fit`, JAX keeps variables elsewhere
            self.learner.jax_state_sync()
        arrays = {
            str(index): keras.ops.convert_to_numpy(variable)
            for index, variable in enumerate(self._variables())
        }
        arrays |= {f"best {index}": weight for index, weight in enumerate(self.best)}
        described = {
            "history": self.history,
            "batches": batches,
            "means": means,
            "seconds": seconds,
            "learning_rate": self.learning_rate,
        }
        try:
            self.checkpoint.save(arrays, described)
        except OSError as error:  # a full disk ends no training
            print(f"resume: the checkpoint could not be saved ({error}); training continues")

    def _restore(self) -> None:
        kept = self.checkpoint.load() if self.checkpoint else None
        if kept is None:
            return
        arrays, described = kept
        for index, variable in enumerate(self._variables()):
            variable.assign(_typed(arrays[str(index)]).astype(np.dtype(variable.dtype)))
        best = sum(name.startswith("best ") for name in arrays)
        self.best = [_typed(arrays[f"best {index}"]) for index in range(best)]
        self.history = described["history"]
        self.batches, self.means = described["batches"], described["means"]
        self.seconds, self.learning_rate = described["seconds"], described["learning_rate"]
        within = f" and {self.batches} batches" if self.batches else ""
        print(f"resume: continuing after {len(self.history)} epochs{within}")

    def _variables(self) -> list[keras.Variable]:
        self.learner.optimizer.build(self.learner.trainable_variables)
        return [*self.learner.variables, *self.learner.optimizer.variables]


def _typed(array: np.ndarray) -> np.ndarray:
    """An array as it was kept: NumPy's files give bfloat16 back as two bytes without a type."""
    return array.view("bfloat16") if array.dtype.kind == "V" else array
