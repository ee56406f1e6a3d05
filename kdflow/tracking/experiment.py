"""Which experiment a run goes to: the one that the user has chosen, or kdflow's own."""

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.tracking import fluent

from kdflow.errors import KdflowError, reason
from kdflow.tracking import store
from kdflow.tracking.saved_views import EXPERIMENT


def chosen_id() -> str:
    """The id of the experiment that the user has chosen, or else of `kdflow`, which is made if the
    store has none.

    Raises:
        KdflowError: `kdflow` is deleted, or what the user has chosen contradicts itself.
        UnreachableError: the store does not answer.
    """
    try:
        chosen = fluent._active_experiment_id or fluent._get_experiment_id_from_env()
    except Exception as error:  # MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID may contradict
        raise KdflowError(f"tracking store: no run can be opened: {reason(error)}") from error
    if chosen:
        return str(chosen)
    experiment = store.with_retries(f"experiment {EXPERIMENT}", _found_or_made)
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        number = experiment.experiment_id
        raise KdflowError(
            f"experiment {EXPERIMENT}: expected one that is not deleted, got {number}, which is"
            f" deleted; `mlflow experiments restore -x {number}` restores it, or choose another one"
            " with MLFLOW_EXPERIMENT_NAME"
        )
    return str(experiment.experiment_id)


def _found_or_made() -> Experiment:
    client = mlflow.MlflowClient()
    if client.get_experiment_by_name(EXPERIMENT) is None:
        try:
            client.create_experiment(EXPERIMENT)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise  # else another process was first
    return client.get_experiment_by_name(EXPERIMENT)
