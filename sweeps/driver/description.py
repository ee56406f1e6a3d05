"""What has to stay the same when a study is resumed, since it makes its trials comparable."""

from typing import Any

from kdflow.config.base import DATASET_OPTIONS, how_to_run, neutral_value
from kdflow.config.objective import WEIGHTS
from kdflow.config.training import TrainingConfig
from kdflow.dataset import Dataset
from kdflow.naming import is_hash
from kdflow.needs import Found, Planned
from kdflow.steps.distill import DistillConfig
from sweeps.driver.study import Study


def described(
    heartbeat: int, file: Study, base: TrainingConfig, dataset: Dataset
) -> dict[str, Any]:
    """The description of a study.

    Args:
        heartbeat: of its trials, in seconds.
        base: what all trials have in common.
    """
    return {
        **file.described_space(),
        **file.described_search(),
        **_fixed(file, base),
        "the data set's digest": dataset.digest,
        "heartbeat": heartbeat,  # or one process would mark another's trials failed
    }


def described_teacher(base: DistillConfig, teacher: Found | Planned) -> dict[str, Any]:
    """What the description of a study of `distill` has besides: a folder of logits is named by
    content."""
    source = teacher.result.source if teacher.result else base.teacher
    return {"teacher": source if is_hash(source) else base.teacher}


def added(file: Study, base: TrainingConfig) -> dict[str, Any]:
    """The part of a description that an older study may lack: what was not recorded then, and
    parameters that have been added since, at the value that changes nothing."""
    neutral = {name: neutral_value(base, name) for name in _fixed(file, base)}
    known = {name: value for name, value in neutral.items() if value is not None}
    others = set(WEIGHTS) - set(base.weights) if isinstance(base, DistillConfig) else set()
    defaults = {name: type(base).model_fields[name].default for name in others}
    return file.described_search() | defaults | known


def _fixed(file: Study, base: TrainingConfig) -> dict[str, Any]:
    """The parameters that all trials share."""
    named_otherwise = {"dataset", *DATASET_OPTIONS, "teacher", "evaluate_test"}
    return base.model_dump(exclude=how_to_run(type(base)) | named_otherwise | set(file.space))
