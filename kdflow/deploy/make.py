"""Make the files of a network: whole and runnable, or not at all."""

import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from kdflow import cache
from kdflow.deploy import litert, onnx_format
from kdflow.deploy.files import FORMATS, open_file
from kdflow.deploy.pixels import exportable
from kdflow.errors import KdflowError, NoRoomError, is_disk_full, reason

FLOAT32, FLOAT16, INT8 = "float32.tflite", "float16.tflite", "int8.tflite"
LITERT = (FLOAT32, FLOAT16, INT8)
ONNX = ("float32.onnx", "int8.onnx")
# The exporter writes the weights several times on the way: as a SavedModel, in memory maps.
ROOM_PER_BYTE = 12


class Made(NamedTuple):
    """The files of a network.

    Attributes:
        paths: of those that were made.
        not_made: why the others were not, by name.
    """

    paths: list[Path]
    not_made: dict[str, str]


def check_room(network: keras.Model) -> None:
    """Refuse to start where the folder for temporary files has too little room.

    Raises:
        NoRoomError: says how much is needed.
    """
    needed = ROOM_PER_BYTE * 4 * network.count_params()
    folder = Path(tempfile.gettempdir())
    cache.check_room(folder, needed, f"the files of {network.name}", variable="TMPDIR")


def make(
    network: keras.Model,
    images: np.ndarray,
    folder: Path,
    names: Iterable[str] = LITERT + ONNX,
    weight_bits: int = 8,
) -> Made:
    """Make files of a network in `folder`. A network that tf2onnx cannot write gets no ONNX files,
    with the reason; LiteRT files are always made.

    Args:
        network: from pixels 0 to 255 to logits.
        images: float32 pixels that the ranges of int8 files are measured on.
        names: which; an int8 or float16 file is made of the float32 file of its format.
        weight_bits: of a weight of the int8 LiteRT file, 8 or 4.

    Raises:
        KdflowError: a LiteRT file cannot be made, or holds an operation that is not LiteRT's own.
        NoRoomError: the disk is full.
    """
    made = Made([], {})
    for name in names:
        path = folder / name
        if (source := path.with_stem("float32").name) in made.not_made:
            made.not_made[name] = f"it needs {source}, which was not made"
            continue
        try:
            _make_whole(path, _writer(network, path, images, weight_bits))
            made.paths.append(path)
        except (KdflowError, MemoryError):
            raise
        except Exception as error:  # exporters fail in many ways
            why = textwrap.shorten(reason(error), 300)
            if is_disk_full(error):
                raise NoRoomError(f"{name} cannot be made: {why}") from error
            if path.suffix == ".tflite":
                raise KdflowError(f"{name} cannot be made: {why}") from error
            made.not_made[name] = why
    return made


def _writer(
    network: keras.Model, path: Path, images: np.ndarray, weight_bits: int
) -> Callable[[Path], None]:
    """What writes the file that `path` is to become."""
    source = path.with_stem("float32")
    return {
        FLOAT32: lambda new: litert.write_float32(exportable(network), new),
        FLOAT16: lambda new: litert.write_float16(source, new),
        INT8: lambda new: litert.write_int8(source, new, images, weight_bits),
        "float32.onnx": lambda new: onnx_format.write_float32(
            exportable(network, erf_gelu=True), new
        ),
        "int8.onnx": lambda new: onnx_format.write_int8(source, new, images),
    }[path.name]


def _make_whole(path: Path, write: Callable[[Path], None]) -> None:
    with cache.replacing(path) as new:
        write(new)
        custom = list(_custom(FORMATS[path.suffix].operations(new)))
        if custom:
            raise KdflowError(
                f"{path.name}: expected operations of {FORMATS[path.suffix].name} alone, so that it"
                f" runs everywhere, got {', '.join(custom)}"
            )
        open_file(new)


def _custom(operations: Iterable[str]) -> Iterator[str]:
    return (name for name in operations if name.startswith(litert.CUSTOM))
