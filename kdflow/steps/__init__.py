"""One module per entry point, each the story of its step told in order."""

from collections.abc import Callable
from typing import Any

from kdflow import data, tracking
from kdflow.config import Config
from kdflow.steps import baseline, compare, distill, export_logits, hint, teacher
from kdflow.steps.record import StepResult

RUN: dict[str, Callable[[Any, data.Dataset], StepResult]] = {
    "teacher": teacher.run,
    "export_logits": export_logits.run,
    "baseline": baseline.run,
    "hint": hint.run,
    "distill": distill.run,
    "compare": compare.run,
}


def run_step(step: str, config: Config) -> StepResult:
    """Load the data that `config` names, run the step, and say how to see the result."""
    tracking.open_store()
    result = RUN[step](config, data.load(config.dataset))
    print(f"run {result.run_id}; compare runs with: {tracking.how_to_see()}")
    return result
