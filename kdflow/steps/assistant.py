"""Distil along a chain of networks, each from the logits of the one before it, and compare the last
with the same network without the chain (Mirzadeh et al. 2020, "Improved Knowledge Distillation via
Teacher Assistant")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from kdflow.catalogue.networks import NETWORKS, is_network, network_name
from kdflow.catalogue.networks.own import FORMS
from kdflow.config.objective import ChainConfig, ObjectiveConfig
from kdflow.config.reading import OwnTeacherConfig
from kdflow.config.training import default_pupil, default_student
from kdflow.naming import run_name, short_source
from kdflow.needs import Need, Step, Training, training
from kdflow.steps.baseline import baseline_for
from kdflow.steps.distill import DistillConfig, logits_needed

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.results.records import StepResult, TeacherLogits
    from kdflow.tracking.run import Run


class AssistantConfig(ChainConfig):
    """Distil along a chain of networks, each from the logits of the one before it."""

    chain: str = Field(
        description="the teacher (auto, a network's name, the id of a run that logged a model, or a"
        " model of your own), then the networks that learn, separated by commas",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_chain(cls, given: dict[str, Any]) -> dict[str, Any]:
        dataset = cls.known_dataset(given)
        if dataset is None:
            return given
        usual = f"auto,{default_student(dataset)},{default_pupil(dataset)}"
        return {"chain": usual} | given

    @field_validator("chain")
    @classmethod
    def _check_chain(cls, chain: str) -> str:
        teacher, *students = (part.strip() for part in chain.split(","))
        unknown = [student for student in students if not is_network(student)]
        if not teacher or not students or unknown:
            raise ValueError(
                f"expected a teacher and one or more of {', '.join(NETWORKS)}, or of your own,"
                f" {FORMS}, separated by commas"
            )
        return ",".join([teacher, *students])

    @property
    def networks(self) -> list[str]:
        """The teacher, then the networks that learn."""
        return self.chain.split(",")


def title(config: AssistantConfig) -> str:
    teacher, *students = config.networks
    chain = ",".join([short_source(teacher), *(network_name(name) for name in students)])
    return run_name(config.objective, f"s{config.seed}", "assistant", chain)


def needs(config: AssistantConfig, dataset: Dataset) -> dict[str, Need]:
    first, *students = config.networks
    inputs: dict[str, Need] = {
        "teacher": logits_needed(config, first, config.shown, parameter="chain")
    }
    source: str | Training = first
    for number, student in enumerate(students, start=1):
        source = hop(config, student, source, parameter="chain")
        inputs[f"hop_{number}"] = source
    alone, straight = controls(config, students[-1], first, parameter="chain")
    return inputs | {"alone": alone, "straight": straight}


def run(
    run: Run,
    config: AssistantConfig,
    dataset: Dataset,
    *,
    teacher: TeacherLogits,
    alone: StepResult,
    straight: StepResult,
    **hops: StepResult,
) -> dict[str, float]:
    from kdflow.steps.ledger import log_ledger, row, teacher_row

    ledger = [teacher_row(teacher, dataset)]
    for network, result in zip(config.networks[1:], hops.values(), strict=True):
        ledger.append(row(network_name(network), f"taught by {ledger[-1]['network']}", result))
    *_, last = hops.values()
    student = network_name(config.networks[-1])
    ledger.append(row(student, "control: labels alone", alone))
    ledger.append(row(student, f"control: taught by {ledger[0]['network']}", straight))
    log_ledger(run, ledger, title(config))
    metrics = {
        "test_accuracy": last.metrics["test_accuracy"],
        "baseline_test_accuracy": alone.metrics["test_accuracy"],
        "straight_test_accuracy": straight.metrics["test_accuracy"],
    }
    run.log(metrics)
    return metrics


def distillation(config: ChainConfig, student: str, teacher: str) -> DistillConfig:
    """The distillation of one student, with the objective and budget that all have."""
    shared = {*ObjectiveConfig.model_fields, *OwnTeacherConfig.model_fields, "precision"}
    objective = config.model_dump(include=shared)
    values: dict[str, Any] = {"student": student, "teacher": teacher, **objective, **config.budget}
    return DistillConfig(**values)


def hop(config: ChainConfig, student: str, source: str | Training, *, parameter: str) -> Training:
    """The distillation of one student from a teacher, or from a run that has yet to be made."""
    if isinstance(source, str):
        values = distillation(config, student, source).model_dump()
    else:  # a run of kdflow, which needs no reading
        read = config.model_copy(update={"pixels": "0..255", "values": "logits"})
        values = distillation(read, student, "auto").model_dump() | {"teacher": source}
    return training("distill", parameter=parameter, **values)


def controls(
    config: ChainConfig, student: str, teacher: str, *, parameter: str
) -> tuple[Training, Training]:
    """A student from labels alone, and straight from the first teacher."""
    straight = distillation(config, student, teacher)
    alone = training("baseline", parameter=parameter, **baseline_for(straight).model_dump())
    return alone, training("distill", parameter=parameter, **straight.model_dump())


ASSISTANT = Step("assistant", AssistantConfig, title, run, needs, verb="run", is_parent=True)
