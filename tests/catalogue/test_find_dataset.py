import pytest

from kdflow.catalogue.datasets import find_dataset
from kdflow.catalogue.datasets.cifar10 import CIFAR10
from kdflow.catalogue.datasets.digits import DIGITS
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
