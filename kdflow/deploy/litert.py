"""LiteRT files: written by Keras and the AI Edge Quantizer, read and run by LiteRT."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdflow import interrupts
from kdflow.deploy.tensor import Tensor
from kdflow.quiet import native_output_suppressed

if TYPE_CHECKING:
    import keras

SIGNATURE = "serving_default"
CUSTOM = "CUSTOM"
CALIBRATION_BATCH = 50
ACTIVATION_BITS = 8


def write_float32(network: keras.Model, path: Path) -> None:
    """Export a network that `pixels.exportable` made."""
    with _quietly():
        network.export(str(path), format="litert", verbose=False)


def write_float16(source: Path, path: Path) -> None:
    """The float32 file `source` with its weights in float16; it computes in float32."""
    from ai_edge_quantizer import qtyping, quantizer

    with _quietly():
        made = quantizer.Quantizer(str(source))
        made.add_weight_only_config(
            ".*",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            num_bits=16,
            algorithm_key=quantizer.AlgorithmName.FLOAT_CASTING,
        )
        content = made.quantize().quantized_model
    path.write_bytes(content)


def write_int8(source: Path, path: Path, images: np.ndarray, weight_bits: int) -> None:
    """The float32 file `source` with activations in int8, and weights in integers for each channel.

    The range of the input is that of pixels, 0 to 255, so that its scale is 1 and its zero point
    -128. The other ranges are those of batches of `images`, averaged.

    Args:
        images: float32 pixels, (n, height, width, channels).
        weight_bits: of each weight, 8 or 4.
    """
    from ai_edge_quantizer import qtyping, quantizer

    file = LiteRTFile(source)
    starts = range(0, len(images), CALIBRATION_BATCH)
    batches = [{file.input.name: images[i : i + CALIBRATION_BATCH]} for i in starts]
    with _quietly():
        made = quantizer.Quantizer(str(source))
        made.add_static_config(
            ".*",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            activation_num_bits=ACTIVATION_BITS,
            weight_num_bits=weight_bits,
        )
        ranges = made.calibrate({SIGNATURE: batches})
        of_pixels = ranges[file.tensor_name]
        for bound, value in {"min": 0.0, "max": 255.0}.items():
            of_pixels[bound] = np.full_like(of_pixels[bound], value)
        content = made.quantize(ranges).quantized_model
    path.write_bytes(content)


class LiteRTFile:
    """A LiteRT file with one input and one output.

    Args:
        path: of the file.
        threads: how many the interpreter may use.

    Attributes:
        tensor_name: what the file itself calls its input; users name it as its signature does.

    Raises:
        ValueError: it is damaged, or holds an operation that LiteRT does not have.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with native_output_suppressed(shown_if_it_fails=False):
            self._interpreter = Interpreter(str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        (given,) = self._interpreter.get_input_details()
        (returned,) = self._interpreter.get_output_details()
        signature = self._interpreter.get_signature_list()[SIGNATURE]
        self.input = _tensor(signature["inputs"][0], given)
        self.output = _tensor(signature["outputs"][0], returned)
        self.tensor_name = given["name"]
        self._indices = given["index"], returned["index"]
        self._batch = 1

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """The logits of one batch, (images, classes) float32.

        Args:
            pixels: 0 to 255, (images, height, width, channels).
        """
        given, returned = self._indices
        if len(pixels) != self._batch:
            self._batch = len(pixels)
            self._interpreter.resize_tensor_input(given, pixels.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(given, self.input.stored(pixels))
        self._interpreter.invoke()
        return self.output.real(self._interpreter.get_tensor(returned))


def operations(path: Path) -> dict[str, int]:
    """How often a file holds each operation, by name; one that is not LiteRT's own, such as one of
    TensorFlow's ("Flex"), is `CUSTOM` and its name."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    model = schema.Model.GetRootAs(path.read_bytes(), 0)

    def name_of(index: int) -> str:
        code = model.OperatorCodes(index)
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        return f"{CUSTOM} {code.CustomCode().decode()}" if name == CUSTOM else name

    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    return Counter(
        name_of(graph.Operators(index).OpcodeIndex())
        for graph in graphs
        for index in range(graph.OperatorsLength())
    )


def _tensor(name: str, details: dict[str, Any]) -> Tensor:
    scale, zero_point = details["quantization"]
    shape = tuple(None if size == -1 else int(size) for size in details["shape_signature"])
    dtype = np.dtype(details["dtype"]).name
    if scale == 0:  # of what is not quantised
        return Tensor(name, shape, dtype)
    return Tensor(name, shape, dtype, float(scale), int(zero_point))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Hold back the reports, progress bars and warnings of the exporter and the quantizer, and an
    interrupt."""
    with (
        interrupts.delayed_to_the_end(),
        native_output_suppressed(shown_if_it_fails=False),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
