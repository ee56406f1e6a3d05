"""The ledger of a step that trains several networks: how each was made, and its accuracy."""

import math
from typing import Any

import pandas as pd

from kdflow.dataset import Dataset
from kdflow.evaluate import plots
from kdflow.evaluate.metrics import final_metrics
from kdflow.results.records import StepResult, TeacherLogits
from kdflow.size import Size
from kdflow.tracking.run import Run

FIGURES = (*Size._fields, "test_accuracy", "teacher_agreement", "test_nll", "test_ece")

Row = dict[str, Any]


def row(network: str, how: str, result: StepResult) -> Row:
    """A run's network and its figures; NaN where the run has no such figure."""
    figures = {name: result.metrics.get(name, math.nan) for name in FIGURES}
    return {"network": network, "how": how, **figures, "run": result.run_id}


def teacher_row(teacher: TeacherLogits, dataset: Dataset) -> Row:
    """A teacher's network and its figures, computed from its logits."""
    manifest = teacher.logits.manifest
    figures = final_metrics(teacher.logits.test[0], dataset.y_test)
    sizes = {name: getattr(manifest, name) for name in Size._fields}
    figures |= {name: float(value) for name, value in sizes.items() if value is not None}
    return row(manifest.network, "teacher", StepResult(teacher.source, figures))


def log_ledger(run: Run, ledger: list[Row], title: str) -> None:
    """Print a ledger, and log it as a table and as a chart."""
    table = pd.DataFrame(ledger)
    for name in Size._fields:
        table[name] = table[name].map("{:,.0f}".format, na_action="ignore")
    for name in ("network", "how"):
        table[name] = table[name].str.ljust(table[name].str.len().max())
    text = table.to_string(index=False, na_rep="-", float_format="%.4f")
    print(f"{title}:\n{text}")
    run.log_table(pd.DataFrame(ledger).to_dict("list"), "ledger.json")
    run.log_figure(plots.ledger(ledger, title), "ledger.png")
