"""Train the student from labels and a teacher's cached logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from kdflow.config.base import NetworkName
from kdflow.config.objective import ObjectiveConfig
from kdflow.config.training import TrainingConfig
from kdflow.needs import LayersOf, LogitsOf, Need, Step
from kdflow.steps.checks import check_network

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.results.records import TeacherLogits, TrainedModel
    from kdflow.tracking.run import Run
    from kdflow.training.objective import Distillation


class DistillConfig(TrainingConfig, ObjectiveConfig):
    """Train the student from labels and a teacher's cached logits."""

    network_field = "student"

    student: NetworkName = Field("student", description="the network to train")
    teacher: str = Field(
        "auto",
        min_length=1,
        description="whose logits to learn from: auto (the data set's default teacher, found or"
        " made), a network's name, a run id, or a folder of logits",
    )
    init: str = Field(
        "none",
        min_length=1,
        description="what the student's lower layers start from: none (random weights), auto (the"
        " hint run of this student and teacher at its default settings, found or made), or the id"
        " of a hint run",
    )

    @property
    def start(self) -> str:
        """What a run's name adds if the student does not start from random weights."""
        return "" if self.init == "none" else " init=hint"


def title(config: DistillConfig) -> str:
    return f"distill {config.student} {config.objective}{config.start} seed={config.seed}"


def needs(config: DistillConfig, dataset: Dataset) -> dict[str, Need]:
    inputs: dict[str, Need] = {
        "teacher": LogitsOf(config.teacher, config.holdout, config.views, parameter="teacher")
    }
    if config.init != "none":
        layers = (config.init, config.student, config.teacher, config.holdout)
        inputs["init"] = LayersOf(*layers, parameter="init")
    return inputs


def objective(config: DistillConfig, teacher: TeacherLogits) -> Distillation:
    """What the student's training minimises."""
    from kdflow.training.objective import Distillation

    return Distillation(
        teacher.logits.train,
        config.temp,
        config.alpha,
        config.t_squared,
        config.loss,
        config.weights,
    )


def run(
    run: Run,
    config: DistillConfig,
    dataset: Dataset,
    *,
    teacher: TeacherLogits,
    init: TrainedModel | None = None,
) -> dict[str, float]:
    from kdflow.steps.training import train_network

    return train_network(
        run,
        config,
        dataset,
        objective(config, teacher),
        title(config),
        teacher=teacher.logits,
        initial=init.network if init else None,
    )


DISTILL = Step("distill", DistillConfig, title, run, needs, check_network)
