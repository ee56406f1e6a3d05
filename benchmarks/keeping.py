"""What an epoch costs more because nothing of it may be lost: its state is kept after it, and its
metrics go to the tracking store through a journal.

    python benchmarks/keeping.py

In alternation, in one process, on random images of CIFAR-10's shape: epochs of `student` (45,000
images) and of `fast` (2,048), with and without. Prints the seconds of each and the ratios round by
round. One per cent is less than what an epoch differs from the next on most machines, so the share
of each epoch in which its state is written and its metrics are logged is measured too. About ten
minutes on two cores.
"""

import functools
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from epoch import in_alternation, show

from kdflow import network
from kdflow.artifacts import checkpoints
from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.catalogue.networks import NETWORKS
from kdflow.config.fitting import Settings
from kdflow.dataset import Dataset, Images
from kdflow.tracking import store
from kdflow.tracking.run import Run
from kdflow.tracking.runs import open_run
from kdflow.training.loop import fit
from kdflow.training.objective import Labels

ROUNDS = 3
IMAGES = {"student": 45_000, "fast": 2_048}  # of an epoch


def epoch_timer(
    name: str, checkpoint: Checkpoint | None = None, run: Run | None = None
) -> Callable[[], float]:
    """A function that trains a network for one epoch more, and returns the seconds that this
    took."""
    recipe, count = NETWORKS[name].recipe, IMAGES[name]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    train = Images(images, rng.integers(10, size=count).astype(np.uint8), np.arange(count))
    few = Images(train.images, train.labels, np.arange(recipe.batch_size))
    settings = Settings(
        recipe.optimizer, recipe.learning_rate, ROUNDS + 2, recipe.batch_size, seed=0
    )
    epochs = fit(network.build(name, train, 10, seed=0), train, few, Labels(), settings, checkpoint)

    def seconds() -> float:
        started = time.perf_counter()
        epoch, metrics = next(epochs)
        if run:
            run.log(metrics, epoch)
        return time.perf_counter() - started

    return seconds


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The same function; how long each call takes is added to `spent`."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent.append(time.perf_counter() - started)

    return call


def main() -> None:
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        os.environ["KDFLOW_CACHE"] = str(folder / "cache")
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        store.open_store()
        one = np.zeros((1, 1, 1, 1), np.uint8)
        dataset = Dataset("random", one, np.zeros(1, np.uint8), one, np.zeros(1, np.uint8), ("a",))
        epoch_of, spent = {}, {name: list[float]() for name in IMAGES}
        for name in IMAGES:
            run = opened.enter_context(open_run(name, "teacher", dataset, {}))
            checkpoint = opened.enter_context(checkpoints.locked(name))
            assert checkpoint
            checkpoint.save = timed(checkpoint.save, spent[name])  # type: ignore[method-assign]
            run.log = timed(run.log, spent[name])  # type: ignore[method-assign]
            epoch_of[f"{name}, kept"] = epoch_timer(name, checkpoint, run)
            epoch_of[name] = epoch_timer(name)
        counted = in_alternation(epoch_of, ROUNDS)
        for name in epoch_of:
            show(f"{name}, seconds", [each[name] for each in counted])
        for name in IMAGES:
            show(f"{name}: kept / not", [each[f"{name}, kept"] / each[name] for each in counted])
            per_epoch = np.reshape(spent[name][-2 * ROUNDS :], (ROUNDS, 2)).sum(axis=1)
            whole = [each[f"{name}, kept"] for each in counted]
            show(f"{name}: share spent on keeping", list(per_epoch / whole))


if __name__ == "__main__":
    main()
