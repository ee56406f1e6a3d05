"""The packages of the extra `deploy`, which are imported only where they are used."""

import importlib.util

import keras

from kdflow.errors import KdflowError

LITERT = ("ai_edge_litert", "ai_edge_quantizer")
ONNX = ("onnx", "onnxruntime", "tf2onnx")
INSTALL = "pip install -c constraints.txt -e '.[deploy]'"


def check_installed(*, onnx: bool) -> None:
    """Refuse to start where a package of the extra is missing, or Keras runs on another backend.

    Args:
        onnx: whether ONNX files are wanted too.

    Raises:
        KdflowError: says what to do.
    """
    wanted = (*LITERT, *(ONNX if onnx else ()))
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise KdflowError(
            f"expected the packages of the extra `deploy`, missing: {', '.join(missing)}; install"
            f" them with: {INSTALL}"
        )
    if keras.backend.backend() != "tensorflow":
        raise KdflowError(
            "KERAS_BACKEND: expected tensorflow, which Keras exports these files with, got"
            f" {keras.backend.backend()}"
        )
