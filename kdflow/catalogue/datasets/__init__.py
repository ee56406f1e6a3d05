"""The data sets, one file each: where the images come from, who teaches there, how to train."""

from kdflow.catalogue.datasets.cifar10 import CIFAR10
from kdflow.catalogue.datasets.cifar100 import CIFAR100
from kdflow.catalogue.datasets.digits import DIGITS
from kdflow.catalogue.datasets.fashion_mnist import FASHION_MNIST
from kdflow.catalogue.datasets.folder import FOLDER
from kdflow.catalogue.datasets.npz import NPZ
from kdflow.catalogue.datasets.record import DatasetRecord

DATASETS = (CIFAR10, CIFAR100, FASHION_MNIST, DIGITS, FOLDER, NPZ)


def find_dataset(typed: str) -> DatasetRecord | None:
    """The record that a user means by `typed`: a name of the catalogue, or a path."""
    return next((record for record in DATASETS if record.matches(typed)), None)
