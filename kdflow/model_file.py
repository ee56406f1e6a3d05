"""Open a file that holds a Keras model. Its maker is not trusted: code in it is not run, and the
sizes that it declares are checked before it is unpacked."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kdflow import interrupts
from kdflow.errors import KdflowError, reason
from kdflow.lazy import lazy_import

if TYPE_CHECKING:
    import h5py
    import keras
else:
    h5py, keras = lazy_import("h5py"), lazy_import("keras")

MODEL_FILES = (".keras", ".h5")
MODEL_URIS = ("runs:/", "models:/")  # of MLflow
OWN_MODEL = "a .keras or .h5 file, runs:/... or models:/..."  # what names one, for messages
NEEDED_CODE = re.compile(r"(?:Could not locate \w+|Unknown \w+:) '([^']+)'|safe_mode=")  # of Keras
# Keras compresses neither kind of file.
MAX_EXPANSION, ALWAYS_ALLOWED = 20, 2**26  # times the size of the file; bytes


def load_file(path: str) -> keras.Model:
    """The Keras model in a `.keras` or `.h5` file.

    Raises:
        KdflowError: there is none, it is damaged, it unpacks to far more than it holds, or it
            carries code.
    """

    def load() -> object:
        check_file(Path(path))
        return keras.saving.load_model(path, compile=False, safe_mode=True)

    return loaded(path, load)


def loaded(source: str, load: Callable[[], object]) -> keras.Model:
    """The Keras model that `load` opens.

    Args:
        source: where it is from, for messages.

    Raises:
        KdflowError: `load` fails, or opens something else.
    """
    try:
        with interrupts.delayed_to_the_end():
            model = load()
    except Exception as error:  # a missing or damaged file fails in many ways
        why = reason(error)
        if code := NEEDED_CODE.search(why):
            why = (
                f"it needs {code[1] or 'a Lambda layer'}, which is not Keras' own, and kdflow runs"
                " no code of a file (a teacher's logits can be used instead: docs/teachers.md)"
            )
        raise KdflowError(f"no model can be loaded from {source}: {why}") from error
    if not isinstance(model, keras.Model):
        raise KdflowError(f"expected a Keras model in {source}, got a {type(model).__name__}")
    return model


def check_file(path: Path) -> None:
    """Refuse what is not a regular file, or would take far more memory than disk.

    Raises:
        ValueError: with the reason. Errors of a damaged file pass.
    """
    if path.exists() and not path.is_file():
        raise ValueError("expected a regular file")
    size = path.stat().st_size
    if path.suffix != ".keras":
        with path.open("rb") as file:
            _check_expansion(_declared_weights(file), size)
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_expansion(sum(member.file_size for member in members), size)
        for member in members:
            if member.filename.endswith(".h5"):
                with archive.open(member) as file:
                    _check_expansion(_declared_weights(file), size)


def _declared_weights(file: IO[bytes]) -> int:
    """The bytes that all arrays of an HDF5 file would take in memory."""
    declared = 0

    def count(_: str, item: h5py.Group | h5py.Dataset) -> None:
        nonlocal declared
        if isinstance(item, h5py.Dataset):
            declared += math.prod(item.shape or ()) * item.dtype.itemsize

    with h5py.File(file, "r") as opened:
        opened.visititems(count)
    return declared


def _check_expansion(declared: int, size: int) -> None:
    allowed = max(MAX_EXPANSION * size, ALWAYS_ALLOWED)
    if declared > allowed:
        raise ValueError(
            f"expected at most {allowed / 1e6:,.1f} MB in memory from {size / 1e6:,.1f} MB in the"
            f" file, got {declared / 1e6:,.1f} MB"
        )
