"""Set an interrupted run of `mlflow run` to KILLED: MLflow 3.17 marks it FAILED after its process
has ended, whatever its status was.

python -m kdflow.tracking.killed <run id>
"""

import sys
import time

import mlflow

from kdflow.tracking.run import FAILED, KILLED


def correct_to_killed(run_id: str, patience: float = 60) -> None:
    """Wait until the run is marked FAILED, and set it to KILLED.

    Args:
        patience: seconds after which it is left as it is.
    """
    client = mlflow.MlflowClient()
    give_up = time.monotonic() + patience
    while client.get_run(run_id).info.status != FAILED:
        if time.monotonic() > give_up:
            return
        time.sleep(0.1)
    client.set_terminated(run_id, KILLED)


if __name__ == "__main__":
    correct_to_killed(sys.argv[1])
