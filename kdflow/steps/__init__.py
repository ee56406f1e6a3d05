"""One module per entry point, each the story of its step told in order."""

from collections.abc import Callable
from typing import Any

from kdflow import data, models, tracking
from kdflow.config import Config, TrainingConfig
from kdflow.errors import about
from kdflow.steps import (
    assistant,
    baseline,
    compare,
    distill,
    export_logits,
    hint,
    main,
    teacher,
)
from kdflow.steps.record import StepResult

RUN: dict[str, Callable[[Any, data.Dataset], StepResult]] = {
    "teacher": teacher.run,
    "export_logits": export_logits.run,
    "baseline": baseline.run,
    "hint": hint.run,
    "distill": distill.run,
    "compare": compare.run,
    "assistant": assistant.run,
    "main": main.run,
}


def run_step(step: str, config: Config) -> StepResult:
    """Load the data that `config` names, run the step, and say how to see the result."""
    tracking.open_store()
    dataset = data.load(config.dataset)
    check_fit(config, dataset)
    result = RUN[step](config, dataset)
    print(f"run {result.run_id}; compare runs with: {tracking.how_to_see()}")
    return result


def check_fit(config: Config, dataset: data.Dataset) -> None:
    """Refuse, before a run is opened, data that cannot be split or trained on as asked."""
    data.split(dataset.y_train, config.holdout)
    if isinstance(config, TrainingConfig):
        with about(config.network_field):
            models.check_fit(config.network, dataset.image_shape, config.dropout)
