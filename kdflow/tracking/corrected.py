"""Correct the status of a run of `mlflow run`: MLflow 3.17 marks it FAILED after a process that did
not exit with status 0, whatever the run's status was.

python -m kdflow.tracking.corrected <run id> <status>
"""

import sys
import time

import mlflow

from kdflow.tracking.run import FAILED


def correct(run_id: str, status: str, patience: float = 60) -> None:
    """Wait until the run is marked FAILED, and set it to `status`.

    Args:
        patience: seconds after which it is left as it is.
    """
    client = mlflow.MlflowClient()
    give_up = time.monotonic() + patience
    while client.get_run(run_id).info.status != FAILED:
        if time.monotonic() > give_up:
            return
        time.sleep(0.1)
    client.set_terminated(run_id, status)


if __name__ == "__main__":
    correct(sys.argv[1], sys.argv[2])
