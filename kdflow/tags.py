"""The tags of runs, and of registered models and Optuna's trials: docs/runs.md says what each
holds."""

STEP_TAG = "kdflow.step"
KEY_TAG = "kdflow.key"
CODE_TAG = "kdflow.code_sha256"
HARDWARE_TAG = "kdflow.hardware"
ASKED_BY_TAG = "kdflow.asked_by"
PARENT = "mlflow.parentRunId"  # a tag of MLflow's own
PLAN_ONLY_TAG = "kdflow.plan_only"
RESUMED_FROM_TAG = "kdflow.resumed_from"

HOST_TAG = "kdflow.host"
HEARTBEAT_TAG = "kdflow.heartbeat"
ENDED_TAG = "kdflow.ended"

DATASET_TAG = "kdflow.dataset"
DATASET_DIGEST_TAG = "kdflow.dataset_digest"
VALIDATION_TAG = "kdflow.validation"

WEIGHTS_TAG = "kdflow.weights_sha256"
BUNDLED_TAG = "kdflow.bundled"
TEACHER_TAG = "kdflow.teacher"
HINT_LAYER_TAG = "kdflow.hint_layer"
GUIDED_LAYER_TAG = "kdflow.guided_layer"
PRECISION_TAG = "kdflow.precision"
AVERAGED_TAG = "kdflow.averaged"
MIRRORED = "mirrored"  # its value: `true` is of means over another shift or crop

VERDICT_TAG = "kdflow.verdict"
STUDY_TAG = "kdflow.study"
TRIAL_TAG = "kdflow.trial"
CONTROL_TAG = "kdflow.control"

REGISTERED_TAG = "kdflow.registered"
PROMOTED_TAG = "kdflow.promoted"
FILE_TAG = "kdflow.file"
FILE_DIGEST_TAG = "kdflow.file_sha256"
DIFFERENCE_TAG = "kdflow.accuracy_difference"


def upstream_tag(role: str) -> str:
    """The tag of the run that another one builds on.

    Args:
        role: as what, for example `teacher`.
    """
    return f"kdflow.upstream.{role}"
