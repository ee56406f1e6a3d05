"""Whether a run has logged a model that classifies, and the names of its classes."""

import mlflow

from kdflow.errors import KdflowError
from kdflow.tracking.find import FoundRun
from kdflow.tracking.run import MODEL_NAME
from kdflow.tracking.store import with_retries

CLASSIFIES = ("teacher", "baseline", "distill")  # steps


def check_classifies(run: FoundRun) -> None:
    """Refuse a run without a model that classifies: a hint run's upper layers are untrained."""
    if run.step not in CLASSIFIES:
        raise KdflowError(
            f"expected a run that logged a model that classifies, got the {run.step} run"
            f" {run.run_id}"
        )


def class_names_of(run: FoundRun) -> tuple[str, ...]:
    """Those of the model that a run logged, in the order of its logits.

    Raises:
        UnfitError: it has logged none.
        UnreachableError: the store does not answer.
    """
    what = f"run {run.run_id} ({run.step}): its {MODEL_NAME}"
    return with_retries(what, lambda: class_names(f"runs:/{run.run_id}/{MODEL_NAME}"))


def class_names(uri: str) -> tuple[str, ...]:
    """Those that a logged or registered model has in its metadata; empty if it has none."""
    metadata = mlflow.models.get_model_info(uri).metadata or {}
    return tuple(metadata.get("class_names", ()))
