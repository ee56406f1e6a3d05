"""Train the student from labels and a teacher's cached logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, ValidationInfo, field_validator

from kdflow.catalogue.networks import network_name
from kdflow.config.objective import ChainConfig, ObjectiveConfig, ThenDeployConfig
from kdflow.config.reading import OwnTeacherConfig
from kdflow.config.training import StudentConfig, TrainingConfig, is_automatic
from kdflow.config.views import Views
from kdflow.model_file import OWN_MODEL
from kdflow.naming import run_name
from kdflow.needs import LayersOf, LogitsOf, Need, Step
from kdflow.steps.checks import check_network
from kdflow.tags import TEACHER_TAG

if TYPE_CHECKING:
    from kdflow.artifacts.logits import Logits
    from kdflow.dataset import Dataset
    from kdflow.results.records import TeacherLogits, TrainedModel
    from kdflow.tracking.run import Run
    from kdflow.training.objective import Distillation

ONE_HOT = 0.999  # a mean largest probability
SAMPLED_ROWS = 1_000  # on which it is measured


class DistillConfig(TrainingConfig, ObjectiveConfig, StudentConfig, OwnTeacherConfig):
    """Train the student from labels and a teacher's cached logits."""

    network_field = "student"

    teacher: str = Field(
        "auto",
        min_length=1,
        description="whose logits to learn from: auto (the data set's default teacher, found or"
        " made), a network's name, a run id, a folder of logits, or a model of your own:"
        f" {OWN_MODEL}",
    )
    init: str = Field(
        "none",
        min_length=1,
        description="what the student's lower layers start from: none (random weights), auto (the"
        " hint run of this student and teacher at its default settings, found or made), or the id"
        " of a hint run",
    )

    @field_validator("init")
    @classmethod
    def _check_init(cls, init: str, info: ValidationInfo) -> str:
        if init != "none" and info.data.get("initial_weights") == "kept":
            raise ValueError("expected none with initial_weights=kept")
        return init

    @property
    def start(self) -> str:
        """What a run's name adds if the student does not start from random weights."""
        return "" if self.init == "none" else "hint"

    @property
    def student_and_teacher(self) -> str:
        """Who learns in a run's name, and from whom, if the user has named a network."""
        is_named = self.teacher != "auto" and is_automatic(self.teacher)
        taught = f"<-{network_name(self.teacher)}" if is_named else ""
        return f"{self.student_name}{taught}"


class DistillCommand(DistillConfig, ThenDeployConfig):
    """Train the student from labels and a teacher's cached logits."""


def title(config: DistillConfig) -> str:
    return run_name(
        config.objective, config.start, f"s{config.seed}", "distill", config.student_and_teacher
    )


def needs(config: DistillConfig, dataset: Dataset) -> dict[str, Need]:
    inputs: dict[str, Need] = {"teacher": logits_needed(config, config.teacher, config.shown)}
    if config.init != "none":
        inputs["init"] = layers_of(config, config.init)
    return inputs


def logits_needed(
    config: DistillConfig | ChainConfig, teacher: str, shown: Views, *, parameter: str = "teacher"
) -> LogitsOf:
    """A teacher's logits of the views that are shown.

    Args:
        teacher: as `parameter` names it.
    """
    return LogitsOf(
        teacher,
        config.holdout,
        shown,
        config.averaged,
        reading=config.reading,
        precision=config.precision,
        parameter=parameter,
    )


def layers_of(config: DistillConfig, source: str) -> LayersOf:
    """The student's lower layers, from the hint run that `source` names."""
    layers = (source, config.student, config.teacher, config.holdout)
    return LayersOf(*layers, reading=config.reading, precision=config.precision, parameter="init")


def objective(config: DistillConfig, dataset: Dataset, teacher: TeacherLogits) -> Distillation:
    """What the student's training minimises."""
    from kdflow.steps.training import labels_term
    from kdflow.training.objective import Distillation

    return Distillation(
        teacher.logits.train,
        config.temp,
        config.alpha,
        config.t_squared,
        config.loss,
        config.weights,
        labels_term(config, dataset),
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

    run.set_tags({TEACHER_TAG: teacher.logits.manifest.network})
    _warn_if_one_hot(teacher.logits, config)
    return train_network(
        run,
        config,
        dataset,
        objective(config, dataset, teacher),
        title(config),
        teacher=teacher.logits,
        initial=init.network if init else None,
    )


def _warn_if_one_hot(teacher: Logits, config: DistillConfig) -> None:
    """Say so if the soft targets tell a student no more than labels would, as with the logits of a
    model that was given pixels of a larger range than it expects."""
    from kdflow.evaluate.metrics import confidence

    every = max(1, teacher.train.shape[1] // SAMPLED_ROWS)
    found = confidence(teacher.train[0, ::every], config.temp)
    if config.alpha and found > ONE_HOT:
        print(
            f"WARNING: at temp={config.temp:g} the teacher's largest probability is {found:.6f} on"
            " average, so that its soft targets are hardly more than labels: use a larger temp, and"
            " check the pixels that a model of your own expects"
        )


DISTILL = Step("distill", DistillCommand, title, run, needs, check_network)
