"""CIFAR-100 (Krizhevsky 2009) with its fine labels, downloaded by Keras, which verifies the archive
by SHA-256."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.catalogue.datasets.downloads import downloaded
from kdflow.catalogue.datasets.record import DatasetRecord

if TYPE_CHECKING:
    from kdflow.dataset import Dataset

NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = tuple(NAMES.split())  # in the order of the official fine labels


def load_cifar100(name: str) -> Dataset:
    """50,000 training and 10,000 test images of 32x32 pixels.

    Raises:
        KdflowError: they cannot be downloaded.
    """
    import keras

    return downloaded(name, keras.datasets.cifar100.load_data, CLASSES, 60_000)


CIFAR100 = DatasetRecord("cifar100", load_cifar100, teacher="fast")
