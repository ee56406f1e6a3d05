"""The files of a deployment side by side."""

import math

import numpy as np
import pytest

from kdflow.dataset import Dataset
from kdflow.deploy import table
from kdflow.deploy.judge import judge
from kdflow.deploy.table import Row
from kdflow.deploy.timing import Speed


@pytest.fixture
def rows(tiny: Dataset) -> list[Row]:
    """A student that is right everywhere, a file that takes 3 of 10 `light` images for `dark`, and
    a teacher that is right everywhere, with a file."""
    right = np.eye(3)[tiny.y_test] * 5
    wrong = right.copy()
    wrong[np.flatnonzero(tiny.y_test == 2)[:3]] = [5, 0, 0]
    student, int8 = (judge(each, right, tiny.y_test, 0.01, right) for each in (right, wrong))
    teacher = judge(right, right, tiny.y_test, 0.01)
    return [
        Row("student", "pupil", "Keras", student, Speed(1.0, 2.0, 3000)),
        Row("student", "pupil", "int8.tflite", int8, Speed(0.5, 0.75, 9000), 20_000, 40),
        Row("teacher", "fast", "float32.tflite", teacher, Speed(4.0, 5.0, 500), 8_000_000, 60),
    ]


def test_the_logged_table_has_every_figure(rows: list[Row]) -> None:
    columns = table.columns(rows)
    assert columns["file"] == ["Keras", "int8.tflite", "float32.tflite"]
    assert columns["test_accuracy"] == [1.0, 0.9, 1.0]
    assert columns["verdict"] == ["", rows[1].judged.paired.verdict, "INCONCLUSIVE"]
    assert columns["difference"][1:] == [pytest.approx(-0.1), 0.0]
    assert columns["teacher_difference"][:2] == [0.0, pytest.approx(-0.1)]
    assert math.isnan(columns["teacher_difference"][2])
    assert columns["bytes"][1:] == [20_000, 8_000_000]
    assert columns["p90_ms"] == [2.0, 0.75, 5.0]
    assert math.isnan(columns["bytes"][0])
    assert math.isnan(columns["difference"][0])
    assert len({len(column) for column in columns.values()}) == 1


def test_each_class_says_what_a_file_loses_of_it(rows: list[Row], tiny: Dataset) -> None:
    assert table.per_class(rows, tiny) == {
        "class": ["dark", "mid", "light"],
        "images": [10, 10, 10],
        "accuracy": [1.0, 1.0, 1.0],
        "lost by int8.tflite": [0.0, 0.0, pytest.approx(0.3)],
    }


def test_metrics_are_the_students(rows: list[Row]) -> None:
    metrics = table.metrics(rows)
    assert metrics["keras_test_accuracy"] == 1.0
    assert metrics["int8_tflite_test_accuracy"] == 0.9
    assert metrics["int8_tflite_bytes"] == 20_000
    assert metrics["int8_tflite_median_ms"] == 0.5
    assert metrics["int8_tflite_teacher_difference"] == pytest.approx(-0.1)
    assert not [name for name in metrics if name.startswith("float32")]


def test_the_console_has_a_line_per_row(rows: list[Row]) -> None:
    heading, *lines = table.in_words(rows).splitlines()
    assert heading.split()[:4] == ["network", "file", "kB", "accuracy"]
    assert [line.split()[:4] for line in lines] == [
        ["pupil", "Keras", "-", "1.0000"],
        ["pupil", "int8.tflite", "20", "0.9000"],
        ["fast", "float32.tflite", "8,000", "1.0000"],
    ]


def test_what_a_file_loses_of_the_teachers_accuracy_and_what_it_saves(rows: list[Row]) -> None:
    paired = rows[1].judged.against_teacher
    assert paired is not None
    assert -1 < paired.low < -0.1  # a wider loss than that of this sample
    lost = (
        "int8.tflite loses 10.00 percentage points of its teacher's accuracy on 30 test images, and"
        f" loses at most {-100 * paired.low:.2f} (95 % confidence)"
    )
    assert table.against_teacher(rows, "int8.tflite") == (
        f"{lost}; float32.tflite of the teacher, fast, has 400.0 times as many bytes and takes 8.0"
        " times as long for an image"
    )
    assert table.against_teacher(rows[:2], "int8.tflite") == lost  # its logits alone are known
    better = rows[1].judged._replace(against_teacher=paired._replace(difference=0.02))
    assert table.against_teacher([rows[1]._replace(judged=better)], "int8.tflite").startswith(
        "int8.tflite gains 2.00 percentage points of its teacher's accuracy on 30 test images, and"
    )


def test_a_teachers_file_of_the_same_kind_is_compared(rows: list[Row]) -> None:
    same = rows[2]._replace(what="int8.tflite", bytes=2_000_000, speed=Speed(1.0, 2.0, 900))
    assert table.against_teacher([*rows, same], "int8.tflite").endswith(
        "; int8.tflite of the teacher, fast, has 100.0 times as many bytes and takes 2.0 times as"
        " long for an image"
    )


def test_without_a_teacher_there_is_no_comparison_with_it(rows: list[Row]) -> None:
    alone = [row._replace(judged=row.judged._replace(against_teacher=None)) for row in rows[:2]]
    assert table.against_teacher(alone, "int8.tflite") == ""
    assert math.isnan(table.columns(alone)["teacher_low"][1])
    assert "int8_tflite_teacher_difference" not in table.metrics(alone)


def test_the_picture_has_a_point_per_file_in_the_networks_colour(rows: list[Row]) -> None:
    figure = table.picture(rows, "a title")
    for axes, (student, teacher) in zip(figure.axes, [(20, 8000), (0.5, 4)], strict=True):
        points = [np.asarray(each.get_offsets()).tolist() for each in axes.collections]
        assert points == [[[student, 0.9]], [[teacher, 1.0]]]
        colours = [np.asarray(each.get_facecolor()).tolist() for each in axes.collections]
        assert colours[0] != colours[1]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "pupil, int8.tflite",
        "fast, float32.tflite (teacher)",
    ]
