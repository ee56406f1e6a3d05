"""The files of a deployment side by side, as tables and as a picture."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kdflow.dataset import Dataset
from kdflow.deploy.judge import Judged
from kdflow.deploy.timing import Speed

KERAS = "Keras"
MARKERS = "os^Dv"  # as many as there are kinds of files


class Row(NamedTuple):
    """A file, or a network as Keras runs it.

    Attributes:
        role: student or teacher.
        network: its name.
        what: the file's name, or `Keras`.
        judged: on the test set, against the network as Keras runs it.
        speed: measured in turn with all others.
        bytes: of the file; NaN of Keras.
        memory_mb: the peak of a process that runs the file; NaN of Keras.
    """

    role: str
    network: str
    what: str
    judged: Judged
    speed: Speed
    bytes: float = np.nan
    memory_mb: float = np.nan

    @property
    def is_file(self) -> bool:
        return self.what != KERAS


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The table to log, as columns of equal length; without differences of Keras from itself."""
    logged = [_logged(row) for row in rows]
    return {name: [row[name] for row in logged] for name in logged[0]}


def _logged(row: Row) -> dict[str, Any]:
    judged, paired = row.judged, row.judged.paired
    compared = {
        "agreement": judged.agreement,
        "largest_difference": judged.largest_difference,
        "difference": paired.difference,
        "low": paired.low,
        "high": paired.high,
        "p_value": paired.p_value,
        "verdict": paired.verdict,
    }
    teacher = judged.against_teacher
    against_teacher = {
        f"teacher_{name}": getattr(teacher, name, np.nan)
        for name in ("difference", "low", "high", "p_value")
    }
    return {
        "network": row.network,
        "role": row.role,
        "file": row.what,
        "bytes": row.bytes,
        "test_accuracy": judged.accuracy,
        "test_nll": judged.nll,
        "test_ece": judged.ece,
        **(compared if row.is_file else dict.fromkeys(compared, np.nan) | {"verdict": ""}),
        **against_teacher,
        **row.speed._asdict(),
        "peak_memory_mb": row.memory_mb,
    }


def metrics(rows: Sequence[Row]) -> dict[str, float]:
    """The figures of the student, as Keras runs it and in each of its files, as metrics."""
    named: dict[str, float] = {}
    for row in rows:
        if row.role == "student":
            figures = {"test_accuracy": row.judged.accuracy, **row.speed._asdict()}
            if row.is_file:
                figures |= {
                    "bytes": row.bytes,
                    "peak_memory_mb": row.memory_mb,
                    "agreement": row.judged.agreement,
                    "difference": row.judged.paired.difference,
                }
            if teacher := row.judged.against_teacher:
                figures |= {"teacher_difference": teacher.difference}
            prefix = row.what.lower().replace(".", "_")
            named |= {f"{prefix}_{name}": float(value) for name, value in figures.items()}
    return named


def in_words(rows: Sequence[Row]) -> str:
    """The table as the console shows it."""
    shown = pd.DataFrame(
        {
            "network": row.network,
            "file": row.what,
            "kB": f"{row.bytes / 1000:,.0f}" if row.is_file else "-",
            "accuracy": f"{row.judged.accuracy:.4f}",
            "against Keras": str(row.judged.paired) if row.is_file else "-",
            "verdict": row.judged.paired.verdict if row.is_file else "-",
            "against the teacher": str(row.judged.against_teacher or "-"),
            "agrees": f"{row.judged.agreement:.4f}" if row.is_file else "-",
            "ms": f"{row.speed.median_ms:.3f}",
            "p90": f"{row.speed.p90_ms:.3f}",
            "images/s": f"{row.speed.images_per_second:,.0f}",
            "MiB": f"{row.memory_mb:.0f}" if row.is_file else "-",
        }
        for row in rows
    )
    return str(shown.to_string(index=False))


def against_teacher(rows: Sequence[Row], name: str) -> str:
    """What the student's file `name` loses of its teacher's accuracy, and what it saves of the
    teacher's file of that kind, or else its first one, in a sentence; empty if the teacher's
    answers are not known."""
    (file,) = (row for row in rows if (row.role, row.what) == ("student", name))
    paired = file.judged.against_teacher
    if not paired:
        return ""
    points = -100 * paired.difference
    changes = f"loses {points:.2f}" if points >= 0 else f"gains {-points:.2f}"
    words = (
        f"{name} {changes} percentage points of its teacher's accuracy on {paired.images:,} test"
        f" images, and loses at most {max(0.0, -100 * paired.low):.2f} (95 % confidence)"
    )
    files = [row for row in rows if row.role == "teacher" and row.is_file]
    for other in sorted(files, key=lambda row: row.what != name)[:1]:
        size, time = other.bytes / file.bytes, other.speed.median_ms / file.speed.median_ms
        words += (
            f"; {other.what} of the teacher, {other.network}, has {size:.1f} times as many bytes"
            f" and takes {time:.1f} times as long for an image"
        )
    return words


def per_class(rows: Sequence[Row], dataset: Dataset) -> dict[str, list[Any]]:
    """The accuracy of each class as Keras runs the student, and what each of its files loses of it,
    as columns."""
    (keras,) = (row for row in rows if row.role == "student" and not row.is_file)
    before = keras.judged.class_accuracy
    table: dict[str, list[Any]] = {
        "class": list(dataset.class_names),
        "images": np.bincount(dataset.y_test, minlength=dataset.classes).tolist(),
        "accuracy": before.tolist(),
    }
    for row in rows:
        if row.role == "student" and row.is_file:
            table[f"lost by {row.what}"] = (before - row.judged.class_accuracy).tolist()
    return table


def picture(rows: Sequence[Row], title: str) -> Figure:
    """Accuracy over bytes and over milliseconds, a point per file: its colour is the network's, its
    marker the kind of file's."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    files = [row for row in rows if row.is_file]
    roles = list(dict.fromkeys(row.role for row in files))
    kinds = list(dict.fromkeys(row.what for row in files))
    sizes = {
        "kB": [row.bytes / 1000 for row in files],
        "milliseconds an image (median)": [row.speed.median_ms for row in files],
    }
    panels = figure.subplots(1, len(sizes), sharey=True)
    for axes, (label, values) in zip(panels, sizes.items(), strict=True):
        for row, value in zip(files, values, strict=True):
            axes.scatter(
                value,
                row.judged.accuracy,
                s=60,
                alpha=0.7,
                color=f"C{roles.index(row.role)}",
                marker=MARKERS[kinds.index(row.what)],
                label=f"{row.network}, {row.what}" + " (teacher)" * (row.role == "teacher"),
            )
        axes.set(xlabel=label, xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.margins(0.15)
    panels[0].set_ylabel("test accuracy")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure
