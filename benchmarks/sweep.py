"""What the driver of the sweeps costs besides training.

    python benchmarks/sweep.py

Runs a study of twelve trials on the digits, on sqlite, in a folder of its own, and prints how long
each trial took beyond its training. About a minute and a half on two cores.
"""

import os
import statistics
import tempfile
import time
from typing import Any

import optuna

from kdflow import training
from sweeps.__main__ import main as sweep

TRIALS = 12


def main() -> None:
    trained: list[float] = []
    fit = training.fit

    def timed(*given: Any, **named: Any) -> list[training.Metrics]:
        started = time.perf_counter()
        history = fit(*given, **named)
        trained.append(time.perf_counter() - started)
        return history

    training.fit = timed
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        flags = f"--trials {TRIALS} --dataset digits --epochs 5 --repeats 2"
        assert sweep(["notebook_grid", *flags.split()]) == 0
        study = optuna.load_study(
            study_name="notebook_grid digits", storage="sqlite:///sweeps/studies.db"
        )
        of_trials = trained[1 : 1 + TRIALS]  # the first training is the teacher's
        durations = [trial.duration.total_seconds() for trial in study.trials if trial.duration]
    beyond = [whole - part for whole, part in zip(durations, of_trials, strict=True)]
    rest = beyond[1:]
    print(f"beyond training, seconds: first trial {beyond[0]:.3f}")
    print(
        f"the others: median {statistics.median(rest):.3f} min {min(rest):.3f} max {max(rest):.3f}"
    )


if __name__ == "__main__":
    main()
