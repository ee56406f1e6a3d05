"""Everything in one command: teacher, logits, student from labels alone, hints, distillation
without and with them, and a smaller network that the student teaches as an assistant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from kdflow.catalogue.networks import network_name
from kdflow.config.base import NetworkName
from kdflow.config.objective import ChainConfig, ThenDeployConfig
from kdflow.config.reading import OwnModelConfig
from kdflow.config.training import StudentConfig
from kdflow.naming import run_name
from kdflow.needs import Need, Step, training
from kdflow.steps.assistant import controls, distillation, hop
from kdflow.steps.distill import logits_needed

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.results.records import StepResult, TeacherLogits
    from kdflow.tracking.run import Run


class MainConfig(ChainConfig, StudentConfig, ThenDeployConfig):
    """Run everything under one parent run: teacher, logits, baseline, hints, distillation without
    and with hints, a chain of assistants, one table."""

    teacher: str = Field(
        "auto",
        description="who teaches: auto (the data set's default teacher, found or made), a network's"
        " name, the id of a run that logged a model, or a model of your own",
    )
    pupil: NetworkName = Field(
        description="smaller network that is distilled from the trained student, its assistant"
    )

    @field_validator("teacher")
    @classmethod
    def _check_teacher(cls, teacher: str) -> str:
        if not teacher.strip() or "," in teacher:
            raise ValueError("expected a single teacher")
        return teacher


def title(config: MainConfig) -> str:
    return run_name(config.objective, f"s{config.seed}", "main", config.student_name)


def needs(config: MainConfig, dataset: Dataset) -> dict[str, Need]:
    alone, kd = controls(config, config.student, config.teacher, parameter="student")
    reading = config.model_dump(include={*OwnModelConfig.model_fields, "precision"})
    shared = reading | config.budget
    hint = training(
        "hint", parameter="student", student=config.student, teacher=config.teacher, **shared
    )
    with_hint = distillation(config, config.student, config.teacher).model_dump() | {"init": hint}
    pupil_alone, straight = controls(config, config.pupil, config.teacher, parameter="pupil")
    return {
        "teacher": logits_needed(config, config.teacher, config.shown),
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
    student, pupil = network_name(config.student), network_name(config.pupil)
    rows = {
        "alone": (student, "labels alone"),
        "kd": (student, "KD"),
        "hint_kd": (student, "hint + KD"),
        "pupil": (pupil, f"taught by {student}"),
        "pupil_alone": (pupil, "control: labels alone"),
        "pupil_straight": (pupil, f"control: taught by {first['network']}"),
    }
    ledger = [first] + [row(*named, trainings[role]) for role, named in rows.items()]
    log_ledger(run, ledger, title(config))
    metrics = {
        f"{name}_test_accuracy": trainings[role].metrics["test_accuracy"]
        for name, role in {
            "baseline": "alone",
            "kd": "kd",
            "hint_kd": "hint_kd",
            "pupil": "pupil",
            "pupil_baseline": "pupil_alone",
            "pupil_straight": "pupil_straight",
        }.items()
    }
    run.log(metrics)
    return metrics


MAIN = Step("main", MainConfig, title, run, needs, verb="run", is_parent=True)
