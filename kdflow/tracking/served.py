"""A LiteRT file as an MLflow model. MLflow keeps this file with the model and runs it where the
model is served, so it imports nothing of kdflow."""

import json
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from ai_edge_litert.interpreter import Interpreter
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

MAX_IMAGES = 10_000
BATCH = 100


class InvalidRequestError(MlflowException):
    """A request that is not answered. Its message stays one line: the scoring server would put the
    pixels in front of it."""

    def __init__(self, message: str) -> None:
        self._said = message
        super().__init__(message, INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        return self._said

    @message.setter
    def message(self, value: str) -> None:
        pass


class LiteRTClassifier(PythonModel):
    """From pixels 0 to 255 to logits, or to probabilities under the classes' names."""

    def load_context(self, context: PythonModelContext) -> None:
        manifest = json.loads(Path(context.artifacts["manifest"]).read_text(encoding="utf-8"))
        path = context.artifacts["file"]
        described = manifest["files"][Path(path).name]
        self._shape = tuple(manifest["pixels"]["shape"][1:])
        self._class_names = manifest["class_names"]
        self._input, self._output = described["input"], described["output"]
        self._run = Interpreter(path).get_signature_runner()
        self._one_at_a_time = threading.Lock()  # the server answers from several threads

    def predict(
        self,
        context: PythonModelContext,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> Any:
        """Classify images.

        Args:
            model_input: pixels 0 to 255, (images, height, width, channels), at most 10,000 images.
            params: `probabilities`: return these, with the classes' names, instead of logits.

        Raises:
            MlflowException: the images have another shape or range, or are too many.
        """
        pixels = self._checked(model_input)
        parts = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
        with self._one_at_a_time:
            logits = np.concatenate([self._answer(part) for part in parts])
        if not (params or {}).get("probabilities"):
            return logits
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = exponentials / exponentials.sum(axis=1, keepdims=True)
        return pd.DataFrame(shares, columns=self._class_names)

    def _checked(self, given: Any) -> np.ndarray:
        expected = f"expected pixels of shape (images, {', '.join(map(str, self._shape))})"
        try:
            pixels = np.asarray(given)
        except ValueError as error:  # rows of unequal length
            raise InvalidRequestError(f"{expected}, got rows of unequal length") from error
        if pixels.dtype.kind not in "uif":
            raise InvalidRequestError(f"{expected}, got values that are not numbers")
        if pixels.shape[1:] != self._shape or len(pixels) == 0:
            raise InvalidRequestError(f"{expected}, got the shape {pixels.shape}")
        if len(pixels) > MAX_IMAGES:
            raise InvalidRequestError(
                f"expected at most {MAX_IMAGES} images in a request, got {len(pixels)}"
            )
        low, high = pixels.min(), pixels.max()
        if not (low >= 0 and high <= 255):  # not-a-number too
            raise InvalidRequestError(
                f"expected pixels from 0 to 255, got values from {low:g} to {high:g}"
            )
        if high <= 1 and np.any(pixels != np.round(pixels)):
            raise InvalidRequestError(
                f"expected pixels from 0 to 255, got fractions from {low:g} to {high:g}; multiply"
                " them by 255"
            )
        return pixels

    def _answer(self, pixels: np.ndarray) -> np.ndarray:
        dtype, scale, zero_point = (self._input[key] for key in ("dtype", "scale", "zero_point"))
        if scale is not None:
            limits = np.iinfo(dtype)
            pixels = np.clip(np.round(pixels / scale) + zero_point, limits.min, limits.max)
        stored = self._run(**{self._input["name"]: pixels.astype(dtype)})[self._output["name"]]
        if self._output["scale"] is None:
            return np.asarray(stored, np.float32)
        real = stored.astype(np.float32) - self._output["zero_point"]
        return np.asarray(real * np.float32(self._output["scale"]))


mlflow.models.set_model(LiteRTClassifier())
