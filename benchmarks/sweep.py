"""What the driver of the sweeps costs besides training.

    python benchmarks/sweep.py

Runs a study of twelve trials on the digits, with sqlite, in a temporary folder, and prints how long
each trial took beyond its epochs. About a minute and a half on two cores.
"""

import os
import statistics
import tempfile

import mlflow
import optuna
from optuna.trial import FrozenTrial

from sweeps.__main__ import main as sweep

TRIALS = 12


def seconds_beyond_epochs(trial: FrozenTrial) -> float:
    assert trial.duration
    client = mlflow.MlflowClient()
    epochs = client.get_metric_history(trial.user_attrs["run_id"], "epoch_seconds")
    return float(trial.duration.total_seconds() - sum(epoch.value for epoch in epochs))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        flags = f"--trials {TRIALS} --dataset digits --epochs 5 --repeats 2"
        assert sweep(["notebook_grid", *flags.split()]) == 0
        study = optuna.load_study(
            study_name="notebook_grid digits", storage="sqlite:///sweeps/studies.db"
        )
        first, *rest = [seconds_beyond_epochs(trial) for trial in study.trials]
    print(f"beyond its epochs, seconds: first trial {first:.3f}")
    print(
        f"the others: median {statistics.median(rest):.3f} min {min(rest):.3f} max {max(rest):.3f}"
    )


if __name__ == "__main__":
    main()
