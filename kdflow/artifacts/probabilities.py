"""A teacher's probabilities as logits: their logarithm gives the same soft targets at every
temperature."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from kdflow.artifacts import logits
from kdflow.artifacts.values import are_probabilities
from kdflow.dataset import Dataset
from kdflow.errors import ParameterError

# For a probability of 0, whose logarithm no student can learn from: the smallest normal number of
# float32, whose logarithm is -87.3.
SMALLEST = float(np.finfo(np.float32).tiny)


def as_logits(folder: Path, dataset: Dataset, view_set: str = "shifts") -> Path:
    """A folder of logits that are the logarithm of the probabilities in `folder`:
    `train_probabilities.npy` and `test_probabilities.npy`, (images, classes) or (views, images,
    classes) each, in the data set's order. It exists as long as this process.

    Args:
        view_set: which the views are of.

    Raises:
        ParameterError: a file is missing, or does not hold probabilities for each image.
    """
    files = [folder / f"{split}_probabilities.npy" for split in logits.SPLITS]
    train, test = (_read(file) for file in files)
    converted = _temporary_folder(str(folder.absolute()), view_set, _stamp(files))
    if not (converted / "manifest.json").exists():
        zeros = sum(int((array == 0).sum()) for array in (train, test))
        if zeros:
            print(
                f"values: {zeros:,} of {train.size + test.size:,} probabilities are 0; they are"
                f" taken as {SMALLEST:.1e}"
            )
        logits.write(
            converted,
            np.log(np.maximum(train, SMALLEST), dtype=np.float32),
            np.log(np.maximum(test, SMALLEST), dtype=np.float32),
            dataset,
            teacher=folder.name,
            network="probabilities",
            view_set=view_set,
        )
    return converted


def _read(file: Path) -> np.ndarray:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"values: expected an array of probabilities in {file}, got {error}"
        ) from error
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.floating):
        raise ParameterError(
            "values: expected floating-point probabilities (images, classes) or (views, images,"
            f" classes) in {file}, got {array.dtype} {array.shape}"
        )
    numbers: np.ndarray = array.astype(np.float32)
    if not are_probabilities(numbers):
        least, most = numbers.min(), numbers.max()
        got = f"numbers from {least:.3g} to {most:.3g} (values=logits reads a folder of logits)"
        if least >= 0 and most <= 1:
            sums = numbers.sum(axis=-1)
            got = f"sums from {sums.min():.3f} to {sums.max():.3f}; save them with all their digits"
        raise ParameterError(
            f"values: expected rows of probabilities that sum to 1 in {file}, got {got}"
        )
    return numbers


def _stamp(files: list[Path]) -> tuple[tuple[int, int], ...]:
    return tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files)


@cache
def _temporary_folder(folder: str, view_set: str, stamp: tuple[tuple[int, int], ...]) -> Path:
    made = Path(tempfile.mkdtemp(prefix="kdflow-logits-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
