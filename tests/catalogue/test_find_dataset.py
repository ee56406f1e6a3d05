from pathlib import Path

import pytest

from kdflow.catalogue.datasets import find_dataset
from kdflow.catalogue.datasets.cifar10 import CIFAR10
from kdflow.catalogue.datasets.digits import DIGITS
from kdflow.catalogue.datasets.folder import FOLDER
from kdflow.catalogue.datasets.npz import NPZ
from kdflow.catalogue.datasets.record import DatasetRecord


@pytest.mark.parametrize(
    ("typed", "record"),
    [
        ("cifar10", CIFAR10),
        ("digits", DIGITS),
        ("my/own.npz", NPZ),
        ("digits.npz", NPZ),
        ("cifar10.npz", NPZ),
        ("cifar10/", FOLDER),
        ("my/photos/", FOLDER),
        ("/", FOLDER),
        ("CIFAR10", None),
        ("own.npy", None),
        (NPZ.name.removesuffix("file"), None),
        ("", None),
    ],
)
def test_a_data_set_is_found_by_its_name_or_by_what_the_path_ends_with(
    typed: str, record: DatasetRecord | None
) -> None:
    assert find_dataset(typed) is record


def test_a_folder_that_there_is_needs_no_slash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_dataset("photos") is None
    (tmp_path / "photos").mkdir()
    (tmp_path / "digits").mkdir()
    assert find_dataset("photos") is FOLDER
    assert find_dataset("digits") is DIGITS
