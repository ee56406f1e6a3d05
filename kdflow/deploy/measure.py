"""Judge and measure networks and their files, all in one process and in turn."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from kdflow.dataset import Dataset
from kdflow.deploy import timing
from kdflow.deploy.files import all_logits, open_file
from kdflow.deploy.judge import judge
from kdflow.deploy.memory import peak_memory_of_file_mb
from kdflow.deploy.table import KERAS, Row
from kdflow.evaluate.metrics import predict_logits
from kdflow.hardware import available_cpus


class Side(NamedTuple):
    """A network and its files.

    Attributes:
        role: student or teacher.
    """

    role: str
    network: keras.Model
    paths: list[Path]


def measured(
    sides: list[Side],
    dataset: Dataset,
    margin: float,
    threads: int,
    teacher_logits: np.ndarray | None = None,
) -> list[Row]:
    """How accurate each network and each of its files is on the test set, how fast it answers and
    what memory it needs.

    Args:
        margin: the largest loss of accuracy that counts as none, 0 to 1.
        threads: how many a file's runtime may use as it is timed; Keras uses its own number.
        teacher_logits: (test images, classes) of the logits that taught the student, which may be
            averaged; None where they are not known, so that it is compared with the side `teacher`.
    """
    judged, answers = {}, {}
    logits_of = {side.role: predict_logits(side.network, dataset.x_test) for side in sides}
    of_teacher = logits_of.get("teacher") if teacher_logits is None else teacher_logits
    for side in sides:
        own = logits_of[side.role]
        compared = (own, dataset.y_test, margin, of_teacher if side.role == "student" else None)
        judged[side.role, KERAS] = judge(own, *compared)
        answers[side.role, KERAS] = side.network.predict_on_batch
        for path in side.paths:
            logits = all_logits(open_file(path, available_cpus()), dataset.x_test)
            judged[side.role, path.name] = judge(logits, *compared)
            answers[side.role, path.name] = open_file(path, threads).logits
    speeds = timing.measure(answers, np.asarray(dataset.x_test[: timing.BATCH]))
    rows = []
    for side in sides:
        name, role = side.network.name, side.role
        rows.append(Row(role, name, KERAS, judged[role, KERAS], speeds[role, KERAS]))
        for path in side.paths:
            key = role, path.name
            size, memory = path.stat().st_size, peak_memory_of_file_mb(path, threads)
            rows.append(Row(role, name, path.name, judged[key], speeds[key], size, memory))
    return rows
