"""Fashion-MNIST (Xiao et al. 2017): 28x28 photos of clothes in grey, downloaded by Keras. Its
archives carry a checksum of their own; Keras has no digest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.datasets.downloads import downloaded
from kdflow.catalogue.datasets.record import DatasetRecord

if TYPE_CHECKING:
    from kdflow.dataset import Dataset

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)  # in the order of the official labels


def load_fashion_mnist(name: str) -> Dataset:
    """60,000 training and 10,000 test images.

    Raises:
        KdflowError: they cannot be downloaded.
    """
    import keras

    return downloaded(name, keras.datasets.fashion_mnist.load_data, CLASSES, 70_000)


FASHION_MNIST = DatasetRecord("fashion_mnist", load_fashion_mnist, teacher="fast")
