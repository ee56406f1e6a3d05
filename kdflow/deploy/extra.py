"""The packages of the extra `deploy`, which are imported only where they are used."""

import importlib.util

import keras

from kdflow.errors import KdflowError

LITERT = ("ai_edge_litert", "ai_edge_quantizer")
ONNX = ("onnx", "onnxruntime", "tf2onnx")
RUNTIMES = {".tflite": "ai_edge_litert", ".onnx": "onnxruntime"}
INSTALL = "pip install -c constraints.txt -e '.[deploy]'"


def check_installed(*, onnx: bool) -> None:
    """Refuse to start where a package of the extra is missing, or Keras runs on another backend.

    Args:
        onnx: whether ONNX files are wanted too.

    Raises:
        KdflowError: says what to do.
    """
    _check_packages(*LITERT, *(ONNX if onnx else ()))
    if keras.backend.backend() != "tensorflow":
        raise KdflowError(
            "KERAS_BACKEND: expected tensorflow, which Keras exports these files with, got"
            f" {keras.backend.backend()}"
        )


def check_runs(suffix: str) -> None:
    """Refuse to run a file whose runtime is not installed.

    Args:
        suffix: of the file's name.

    Raises:
        KdflowError: says what to do.
    """
    _check_packages(RUNTIMES[suffix])


def _check_packages(*wanted: str) -> None:
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise KdflowError(
            f"expected the packages of the extra `deploy`, missing: {', '.join(missing)}; install"
            f" them with: {INSTALL}"
        )
