"""One module per entry point: its parameters, what it needs, what it does."""

from kdflow.needs import Step
from kdflow.steps.assistant import ASSISTANT
from kdflow.steps.baseline import BASELINE
from kdflow.steps.compare import COMPARE
from kdflow.steps.deploy import DEPLOY
from kdflow.steps.distill import DISTILL
from kdflow.steps.export_logits import EXPORT_LOGITS
from kdflow.steps.hint import HINT
from kdflow.steps.main import MAIN
from kdflow.steps.teacher import TEACHER

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        TEACHER,
        EXPORT_LOGITS,
        BASELINE,
        HINT,
        DISTILL,
        COMPARE,
        ASSISTANT,
        MAIN,
        DEPLOY,
    )
}
