"""ONNX files: written by Keras through tf2onnx, quantised and run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdflow import interrupts
from kdflow.deploy.litert import CUSTOM
from kdflow.deploy.tensor import Tensor
from kdflow.errors import reason
from kdflow.quiet import native_output_suppressed

if TYPE_CHECKING:
    import keras

CALIBRATION_BATCH = 32
STANDARD = ("", "ai.onnx")


def write_float32(network: keras.Model, path: Path) -> None:
    """Export a network that `pixels.exportable` made with `erf_gelu`.

    Raises:
        ValueError: it computes something that tf2onnx cannot write.
    """
    with _quietly():
        network(np.zeros((1, *network.input_shape[1:]), np.float32))  # Keras wants it called once
        network.export(str(path), format="onnx", verbose=False)
    OnnxFile(path)


def write_int8(source: Path, path: Path, images: np.ndarray) -> None:
    """The float32 file `source` with weights, per channel, and activations in int8; it takes and
    gives float32.

    Args:
        images: float32 pixels to measure the ranges on, (n, height, width, channels).
    """
    from onnxruntime import quantization

    class Batches(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            starts = range(0, len(images), CALIBRATION_BATCH)
            self._batches = iter([{name: images[i : i + CALIBRATION_BATCH]} for i in starts])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as folder, _quietly():
        prepared = Path(folder) / "prepared.onnx"
        quantization.shape_inference.quant_pre_process(
            str(source), str(prepared), skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared),
            str(path),
            Batches(OnnxFile(source).input.name),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # x86 processors without VNNI add products of 8 bits in 16 bits
        )


class OnnxFile:
    """An ONNX file with one input and one output, both float32.

    Args:
        path: of the file.
        threads: how many the session may use.

    Raises:
        ValueError: it is damaged, or holds an operation that ONNX Runtime does not have.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what fails is raised too
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no public class
            raise ValueError(reason(error)) from error
        (given,), (returned,) = self._session.get_inputs(), self._session.get_outputs()
        self.input, self.output = (
            Tensor(
                each.name,
                tuple(size if isinstance(size, int) else None for size in each.shape),
                {"tensor(float)": "float32"}[each.type],
            )
            for each in (given, returned)
        )

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """The logits of one batch, (images, classes) float32.

        Args:
            pixels: 0 to 255, (images, height, width, channels).
        """
        (logits,) = self._session.run(None, {self.input.name: self.input.stored(pixels)})
        return self.output.real(logits)


def operations(path: Path) -> dict[str, int]:
    """How often a file holds each operation, by name; one that is not of the ONNX standard is
    `CUSTOM` and its name."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return Counter(
        node.op_type if node.domain in STANDARD else f"{CUSTOM} {node.domain} {node.op_type}"
        for node in graph.node
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hold back the warnings of tf2onnx, those of Keras about NumPy 2 on its behalf, and an
    interrupt."""
    with (
        interrupts.delayed_to_the_end(),
        native_output_suppressed(shown_if_it_fails=False),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
