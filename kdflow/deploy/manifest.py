"""`deploy.json`: what a run's files are, what they take and give, and how to run them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from kdflow.dataset import Dataset
from kdflow.deploy.files import FORMATS, open_file
from kdflow.deploy.judge import Judged
from kdflow.deploy.tensor import Tensor
from kdflow.size import multiply_adds

FORMAT_VERSION = 1
# What a run of `deploy` logs the files under, and their description.
FILES, MANIFEST = "files", "deploy.json"
FLOAT, QUANTISED = ("float32", "int8")
# Of a file's suffix and the type of its input. The names in braces are those of the manifest.
SNIPPETS = {
    (".tflite", FLOAT): """\
from ai_edge_litert.interpreter import Interpreter

run = Interpreter("{file}").get_signature_runner()
logits = run({input}=pixels.astype("float32"))["{output}"]
""",
    (".tflite", QUANTISED): """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter

run = Interpreter("{file}").get_signature_runner()
stored = np.clip(np.round(pixels / {scale}) + {zero_point}, -128, 127).astype("int8")
given = run({input}=stored)["{output}"]
logits = (given.astype("float32") - {output_zero_point}) * {output_scale}
""",
    (".onnx", FLOAT): """\
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
(logits,) = session.run(None, {{"{input}": pixels.astype("float32")}})
""",
}


def served_name(serve: str) -> str:
    """The name of the file that a deployment serves, by its parameter `serve`."""
    return f"{serve}.tflite"


def manifest(
    network: keras.Model,
    dataset: Dataset,
    paths: list[Path],
    judged: Mapping[str, Judged],
    *,
    source: str,
    weights_sha256: str,
    calibration: Mapping[str, Any],
    margin: float,
    not_made: Mapping[str, str],
    weight_bits: int = 8,
    fine_tuned: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `deploy.json`.

    Args:
        paths: of the files.
        judged: how each file compares with the network, by name.
        source: the run that trained the network, or the hash of its weights.
        calibration: how the images were drawn that int8 ranges are measured on.
        margin: of the verdicts, 0 to 1.
        not_made: why other files were not made, by name.
        weight_bits: of the int8 LiteRT file.
        fine_tuned: how its network was fine-tuned, if it was.
    """
    height, width, channels = dataset.image_shape
    return {
        "format_version": FORMAT_VERSION,
        "network": network.name,
        "source": source,
        "weights_sha256": weights_sha256,
        "dataset": {"name": dataset.short_name, "digest": dataset.digest},
        "class_names": list(dataset.class_names),
        "pixels": {
            "shape": ["images", height, width, channels],
            "lowest": 0,
            "highest": 255,
        },
        "gives": "logits, in the order of class_names; softmax makes them probabilities",
        "parameters": network.count_params(),
        "multiply_adds": multiply_adds(network),
        "calibration": dict(calibration),
        "margin_points": 100 * margin,
        "int8_litert": {"weight_bits": weight_bits, "fine_tuned": fine_tuned and dict(fine_tuned)},
        "files": {path.name: _described(path, judged[path.name]) for path in paths},
        "not_made": dict(not_made),
    }


def _described(path: Path, judged: Judged) -> dict[str, Any]:
    file = open_file(path)
    how = SNIPPETS[path.suffix, file.input.dtype].format(
        file=path.name,
        input=file.input.name,
        output=file.output.name,
        scale=file.input.scale,
        zero_point=file.input.zero_point,
        output_scale=file.output.scale,
        output_zero_point=file.output.zero_point,
    )
    teacher = judged.against_teacher
    return {
        "format": FORMATS[path.suffix].name,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "operations": dict(sorted(FORMATS[path.suffix].operations(path).items())),
        "input": _tensor(file.input),
        "output": _tensor(file.output),
        "how_to_run": how,
        "test": {
            "accuracy": judged.accuracy,
            "nll": judged.nll,
            "ece": judged.ece,
            "agreement": judged.agreement,
            "largest_difference": judged.largest_difference,
            "accuracy_difference": judged.paired._asdict(),
            "accuracy_difference_from_teacher": teacher and teacher._asdict(),
        },
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return tensor._asdict() | {"shape": list(tensor.shape)}


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
