"""The whole story in one command: teacher, logits, student from labels alone, hints, distillation
without and with them, and a smaller network that the student teaches as an assistant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from kdflow.config.base import NetworkName
from kdflow.config.objective import SeveralConfig
from kdflow.needs import LogitsOf, Need, Step, training
from kdflow.steps.assistant import controls, distillation, hop

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.results.records import StepResult, TeacherLogits
    from kdflow.tracking.run import Run


class MainConfig(SeveralConfig):
    """The whole story as runs under one: teacher, logits, baseline, hints, distillation without and
    with them, a chain of assistants, one table."""

    student: NetworkName = Field(
        "student",
        description="the network to train; its guided layer has to fit the teacher's hint layer",
    )
    teacher: str = Field(
        "auto",
        description="who teaches: auto (the data set's default teacher, found or made), a network's"
        " name, or the id of a run that logged a model",
    )
    pupil: NetworkName = Field(
        "pupil", description="the network that the student, once taught, teaches as an assistant"
    )

    @field_validator("teacher")
    @classmethod
    def _a_single_one(cls, teacher: str) -> str:
        if not teacher.strip() or "," in teacher:
            raise ValueError("expected a single teacher")
        return teacher


def title(config: MainConfig) -> str:
    return f"main {config.student} {config.objective} seed={config.seed}"


def needs(config: MainConfig, dataset: Dataset) -> dict[str, Need]:
    alone, kd = controls(config, config.student, config.teacher, parameter="student")
    shared = {**dataset.parameters, "holdout": config.holdout, **config.budget}
    hint = training(
        "hint", parameter="student", student=config.student, teacher=config.teacher, **shared
    )
    with_hint = distillation(config, config.student, config.teacher).model_dump() | {"init": hint}
    pupil_alone, straight = controls(config, config.pupil, config.teacher, parameter="pupil")
    return {
        "teacher": LogitsOf(config.teacher, config.holdout, config.views, parameter="teacher"),
        "alone": alone,
        "hint": hint,
        "kd": kd,
        "hint_kd": training("distill", parameter="student", **with_hint),
        "pupil": hop(config, config.pupil, kd, parameter="pupil"),
        "pupil_alone": pupil_alone,
        "pupil_straight": straight,
    }


def run(
    run: Run,
    config: MainConfig,
    dataset: Dataset,
    *,
    teacher: TeacherLogits,
    **trainings: StepResult,
) -> dict[str, float]:
    from kdflow.steps.ledger import log_ledger, row, teacher_row

    first = teacher_row(teacher, dataset)
    rows = {
        "alone": (config.student, "labels alone"),
        "kd": (config.student, "KD"),
        "hint_kd": (config.student, "hint + KD"),
        "pupil": (config.pupil, f"taught by {config.student}"),
        "pupil_alone": (config.pupil, "control: labels alone"),
        "pupil_straight": (config.pupil, f"control: taught by {first['network']}"),
    }
    ledger = [first] + [row(*named, trainings[role]) for role, named in rows.items()]
    log_ledger(run, ledger, title(config))
    metrics = {
        f"{name}_test_accuracy": trainings[role].metrics["test_accuracy"]
        for name, role in {
            "baseline": "alone",
            "kd": "kd",
            "hint_kd": "hint_kd",
            "assistant": "pupil",
        }.items()
    }
    run.log(metrics)
    return metrics


MAIN = Step("main", MainConfig, title, run, needs, verb="run", is_parent=True)
