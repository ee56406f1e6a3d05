"""The page of a deployment says what its figures are, and needs no other file."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdflow.dataset import Dataset
from kdflow.deploy import report
from kdflow.deploy.judge import judge
from kdflow.deploy.table import Row
from kdflow.deploy.timing import Speed
from kdflow.evaluate.paired import Paired

VOID = {"img", "link", "meta"}
NAMES = ("<dark>", "mid", "light")


class Elements(HTMLParser):
    """A page's elements, each of which is closed in its turn, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.attributes if name == tag]


@pytest.fixture
def dataset(tiny: Dataset) -> Dataset:
    return replace(tiny, class_names=NAMES)


@pytest.fixture
def rows(dataset: Dataset) -> list[Row]:
    """A student that is right everywhere, a file that takes 3 of 10 `light` images for `<dark>`,
    one that is right as well, and a teacher."""
    right = np.eye(3)[dataset.y_test] * 5
    wrong = right.copy()
    wrong[np.flatnonzero(dataset.y_test == 2)[:3]] = [5, 0, 0]
    same, worse = (judge(each, right, dataset.y_test, 0.1) for each in (right, wrong))
    speed = Speed(0.5, 0.75, 9000)
    return [
        Row("student", "pupil", "Keras", same, speed),
        Row("student", "pupil", "float32.onnx", same, speed, 40_000, 50),
        Row("student", "pupil", "int8.tflite", worse, speed, 20_123, 40),
        Row("teacher", "fast", "Keras", same, speed),
    ]


def described(of: str, dtype: str, sha256: str) -> dict[str, Any]:
    scale, zero_point = (1.0, -128) if dtype == "int8" else (None, None)
    tensor = {"name": "images", "dtype": dtype, "scale": scale, "zero_point": zero_point}
    return {
        "format": of,
        "sha256": sha256,
        "input": tensor,
        "output": tensor | {"name": "output_0"},
        "how_to_run": f"run {of}\n",
    }


@pytest.fixture
def manifest() -> dict[str, Any]:
    return {
        "network": "pupil & co",
        "weights_sha256": "of the weights",
        "dataset": {"name": "tiny", "digest": "of the images"},
        "pixels": {"shape": ["images", 8, 8, 3]},
        "parameters": 1234,
        "multiply_adds": 5678,
        "calibration": {"images": 60, "of": "training images"},
        "margin_points": 10,
        "int8_litert": {"weight_bits": 8, "fine_tuned": None},
        "files": {
            "float32.onnx": described("ONNX", "float32", "of the ONNX file"),
            "int8.tflite": described("LiteRT", "int8", "of the LiteRT file"),
        },
        "not_made": {"int8.onnx": "an <Erf>"},
    }


def made(
    rows: list[Row],
    manifest: dict[str, Any],
    dataset: Dataset,
    origin: dict[str, str] | None = None,
) -> str:
    given = (origin or {}, "int8.tflite", Figure(), 1)
    return report.page(rows, manifest, dataset, *given)


def test_the_tables_have_the_figures(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    text = Elements(made(rows, manifest, dataset)).text
    paired = rows[2].judged.paired
    shown = f"{100 * paired.difference:+.2f} [{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]"
    nll, ece = f"{rows[2].judged.nll:.4f}", f"{rows[2].judged.ece:.4f}"
    assert shown.startswith("-10.00 [")
    line = f"20,123 0.9000 {shown} {paired.verdict} {nll} {ece} 0.500 0.750 9,000 40"
    assert f"int8.tflite {line}" in text
    assert "student: pupil Keras - 1.0000 - - " in text
    assert "teacher: fast Keras - 1.0000 - - " in text
    classes = "light 10 0.7000 1.0000 <dark> 10 1.0000 1.0000 mid 10 1.0000 1.0000"
    assert classes in text  # the lowest accuracy first
    for digest in ("of the ONNX file", "of the LiteRT file", "of the weights", "of the images"):
        assert digest in text
    assert "int8.onnx was not made: an <Erf>" in text


def test_the_served_file_is_compared_with_the_teacher(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    assert "difference from the teacher" not in Elements(made(rows, manifest, dataset)).text
    paired = rows[2].judged.paired
    taught = [
        row._replace(judged=row.judged._replace(against_teacher=row.judged.paired))
        for row in rows[:3]
    ]
    text = Elements(made([*taught, rows[3]], manifest, dataset)).text
    assert "int8.tflite loses 10.00 percentage points of its teacher's accuracy on 30 test" in text
    shown = f"{100 * paired.difference:+.2f} [{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]"
    assert f"int8.tflite 20,123 0.9000 {shown} {paired.verdict} {shown} " in text
    assert "teacher: fast Keras - 1.0000 - - - 0." in text


def test_it_says_how_the_network_of_an_int8_file_was_fine_tuned(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    assert "fine-tuned" not in Elements(made(rows, manifest, dataset)).text
    manifest["int8_litert"]["fine_tuned"] = {
        **{"epochs": 10, "from": "the logits of <fast>", "of": "validation images"},
        **{"lost_points_before": 4.5, "lost_points_after": 0.25},
    }
    assert (
        "lost 4.50 percentage points on the validation images, so its network was fine-tuned for 10"
        " epochs from the logits of <fast> with weights rounded as in the file. After that it lost"
        " 0.25."
    ) in Elements(made(rows, manifest, dataset)).text


def test_the_picture_of_confusions_is_described(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    images = Elements(made(rows, manifest, dataset)).of("img")
    assert [image["alt"] for image in images] == [
        "Test accuracy of each file over its size and over its time",
        "Confusion matrix of int8.tflite: 27 of 30 images are right; the most frequent mistake is"
        " light taken for <dark>, 3 times",
    ]
    assert all(str(image["src"]).startswith("data:image/png;base64,iVBOR") for image in images)


def test_a_class_without_test_images_comes_last(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    four = replace(dataset, class_names=(*NAMES, "absent"))
    padded = [
        row._replace(
            judged=row.judged._replace(
                confusions=np.pad(row.judged.confusions, ((0, 1), (0, 1))),
                class_accuracy=np.append(row.judged.class_accuracy, np.nan),
            )
        )
        for row in rows
    ]
    text = Elements(made(padded, manifest, four)).text
    assert "mid 10 1.0000 1.0000 absent 0 - no test images - How do I run" in text


def test_what_comes_from_outside_is_escaped(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    code = "<script>alert(1)</script>"
    page = made(rows, manifest, replace(dataset, class_names=(code, "b", "c")), {"Training": code})
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3  # with the alt text


def test_nothing_is_loaded_from_elsewhere(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    page = made(rows, manifest, dataset)
    elements = Elements(page)
    assert not elements.of("script")
    assert not elements.of("link")
    assert not re.findall(r"https?://|url\(|@import", page)
    assert elements.of("meta")[2]["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    )


def test_headings_and_tables_are_those_of_an_accessible_page(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    elements = Elements(made(rows, manifest, dataset))
    assert elements.of("html") == [{"lang": "en"}]
    levels = [tag for tag, _ in elements.attributes if re.fullmatch(r"h\d", tag)]
    assert levels == ["h1", *["h2"] * 5, *["h3"] * 3, "h2"]
    assert len(elements.of("caption")) == len(elements.of("table")) == 3
    assert all("scope" in heading for heading in elements.of("th"))
    ids = [attributes["id"] for _, attributes in elements.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {
        each["aria-labelledby"] for _, each in elements.attributes if "aria-labelledby" in each
    }
    assert named <= set(ids)


def test_each_file_is_run_where_it_can_be(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    text = Elements(made(rows, manifest, dataset)).text
    python, _, rest = text.partition("In a browser")
    browser, _, android = rest.partition("On Android")
    assert "float32.onnx run ONNX" in python
    assert "int8.tflite run LiteRT" in python
    assert 'InferenceSession.create("float32.onnx")' in browser
    assert "[1, 8, 8, 3]" in browser
    assert 'CompiledModel.create(context.assets, "int8.tflite")' in android
    assert "(pixel / 1.0f).roundToInt() + (-128)).coerceIn(-128, 127)" in android


def test_without_onnx_files_it_says_so(
    rows: list[Row], manifest: dict[str, Any], dataset: Dataset
) -> None:
    del manifest["files"]["float32.onnx"]
    text = Elements(made([rows[0], rows[2]], manifest, dataset)).text
    assert "Browsers run the ONNX files, and there are none." in text


@pytest.mark.parametrize(
    ("verdict", "margin", "expected"),
    [
        ("SAME", 1, "a.onnx is as good as the Keras model: it loses at most 1 percentage point; "),
        ("WORSE", 2.5, "a.onnx is worse than the Keras model: it loses more than 2.5 percentage"),
        ("INCONCLUSIVE", 1, "The test set is too small to tell whether a.onnx loses more than 1 "),
    ],
)
def test_a_verdict_in_words(verdict: str, margin: float, expected: str) -> None:
    paired = Paired(-0.01, -0.02, 0.005, 0.5, 20, 10, 1000, verdict)
    words = report.in_words("a.onnx", paired, margin)
    assert words.startswith(expected)
    assert "the difference is -1.00 [-2.00, +0.50] points on 1,000 test images." in words
    assert words.endswith("or a larger margin.") == (verdict == "INCONCLUSIVE")


@pytest.mark.parametrize(("margin", "is_refused"), [(0.4, False), (0.01, True)])
def test_where_a_file_is_worse_nothing_is_served(
    margin: float,
    is_refused: bool,
    rows: list[Row],
    manifest: dict[str, Any],
    dataset: Dataset,
) -> None:
    right = np.eye(3)[dataset.y_test]
    judged = judge(
        np.roll(right, 1, axis=1) if is_refused else right, right, dataset.y_test, margin
    )
    text = Elements(made([rows[0], rows[2]._replace(judged=judged)], manifest, dataset)).text
    verdict, words = ("WORSE", "worse than") if is_refused else ("SAME", "as good as")
    assert f"{verdict} int8.tflite is {words} the Keras model" in text
    assert "It was chosen to be served." in text
    assert ("the run has failed: nothing is served" in text) == is_refused
