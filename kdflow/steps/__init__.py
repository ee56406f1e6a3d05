"""One module per entry point, each the story of its step told in order."""

from kdflow import data, tracking
from kdflow.config import Config
from kdflow.steps import baseline, distill, export_logits, teacher
from kdflow.steps.record import StepResult

RUN = {
    "teacher": teacher.run,
    "export_logits": export_logits.run,
    "baseline": baseline.run,
    "distill": distill.run,
}


def run_step(step: str, config: Config) -> StepResult:
    """Load the data that `config` names, run the step, and say how to see the result."""
    result = RUN[step](config, data.load(config.dataset))  # type: ignore[operator]
    print(f"run {result.run_id}; compare runs with: {tracking.how_to_see()}")
    return result
