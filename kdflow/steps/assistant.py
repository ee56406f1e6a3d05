"""Distil along a chain of networks, each from the logits of the one before it, and set the last
beside what it is worth without the chain (Mirzadeh et al. 2020, "Improved Knowledge Distillation
via Teacher Assistant")."""

import math
from typing import Any

import pandas as pd

from kdflow import evaluate, models, plots, tracking
from kdflow.config import (
    AssistantConfig,
    DistillConfig,
    ObjectiveConfig,
    SeveralConfig,
)
from kdflow.data import Dataset
from kdflow.errors import about
from kdflow.steps import baseline, distill, export_logits
from kdflow.steps.record import StepResult, link_upstream, open_step

FIGURES = ("parameters", "test_accuracy", "teacher_agreement", "test_nll", "test_ece")

Row = dict[str, Any]


def run(config: AssistantConfig, data: Dataset) -> StepResult:
    return run_with_ledger(config, data)[0]


def run_with_ledger(
    config: AssistantConfig, data: Dataset, *, child: bool = False
) -> tuple[StepResult, list[Row]]:
    """The result of the chain, and its ledger: the teacher, each hop, the two controls."""
    first, *students = config.networks
    for student in students:
        with about("chain"):
            models.check_fit(student, data.image_shape)
    first_hop = hop(config, students[0], first)
    found = export_logits.find(first_hop, data, parameter="chain")
    name = f"assistant {config.chain} {config.objective} seed={config.seed}"
    with open_step("assistant", name, config, data, child=child) as run_id:
        teacher = found or export_logits.export(first_hop, data)
        link_upstream("assistant", config, data, teacher=teacher.source)
        ledger = [_teacher_row(teacher, data)]
        source = first
        for student in students:
            result = distill.find_or_run(hop(config, student, source), data)
            ledger.append(row(student, f"taught by {ledger[-1]['network']}", result))
            source = result.run_id
        alone = baseline.find_or_run(baseline.beside(hop(config, student, first)), data)
        straight = distill.find_or_run(hop(config, student, first), data)
        ledger.append(row(student, "control: labels alone", alone))
        ledger.append(row(student, f"control: taught by {ledger[0]['network']}", straight))
        log_ledger(ledger, name)
        metrics = {
            "test_accuracy": result.metrics["test_accuracy"],
            "test_accuracy_alone": alone.metrics["test_accuracy"],
            "test_accuracy_straight": straight.metrics["test_accuracy"],
        }
        tracking.log_metrics(metrics)
    return StepResult(run_id, metrics), ledger


def row(network: str, how: str, result: StepResult) -> Row:
    """A line of a ledger: what a run's network is and is worth. NaN stands for what the run does
    not say."""
    figures = {name: result.metrics.get(name, math.nan) for name in FIGURES}
    return {"network": network, "how": how, **figures, "run": result.run_id}


def log_ledger(ledger: list[Row], title: str) -> None:
    """Print a ledger, and log it on the open run as a table and as a chart."""
    table = pd.DataFrame(ledger)
    table["parameters"] = table["parameters"].map("{:,.0f}".format, na_action="ignore")
    for name in ("network", "how"):
        table[name] = table[name].str.ljust(table[name].str.len().max())
    text = table.to_string(index=False, na_rep="-", float_format="%.4f")
    print(f"{title}:\n{text}")
    tracking.log_table(pd.DataFrame(ledger).to_dict("list"), "ledger.json")
    tracking.log_figure(plots.ledger(ledger, title), "ledger.png")


def _teacher_row(teacher: export_logits.TeacherLogits, data: Dataset) -> Row:
    manifest = teacher.logits.manifest
    figures = evaluate.final_metrics(teacher.logits.test[0], data.y_test)
    if manifest.parameters is not None:
        figures["parameters"] = float(manifest.parameters)
    return row(manifest.network, "teacher", StepResult(teacher.source, figures))


def hop(config: SeveralConfig, student: str, teacher: str) -> DistillConfig:
    """The distillation of one student, as the whole chain is asked for."""
    objective = config.model_dump(include=set(ObjectiveConfig.model_fields))
    return DistillConfig(student=student, teacher=teacher, **objective, **config.budget)  # type: ignore[arg-type]
