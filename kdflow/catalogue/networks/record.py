"""What the catalogue states of a network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kdflow.image_file import ImageShape


class Recipe(NamedTuple):
    """How a network is trained unless the user says otherwise."""

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    schedule: str = "constant"
    augment: int = 1
    label_smoothing: float = 0.0


class Spec(NamedTuple):
    """What a builder gets.

    Attributes:
        image_shape: (height, width, channels).
        classes: the number of logits.
        dropout: the rate of the dropout before the last layer.
        sample: returns at most the given number of training images, uint8 (n, height, width,
            channels), for layers whose weights are computed from images; None where only shapes
            matter.
        seed: what a user's own network is initialised from; one of the catalogue is built after the
            seed was set.
        keeps_weights: whether a user's own network starts from the weights that its file has.
    """

    image_shape: ImageShape
    classes: int
    dropout: float = 0.0
    sample: Callable[[int], np.ndarray] | None = None
    seed: int = 0
    keeps_weights: bool = False


@dataclass(frozen=True)
class Network:
    """A network of the catalogue, or one of the user's own.

    Attributes:
        summary: what it is, in a few words.
        build: from a `Spec` to a Keras model from raw uint8 pixels to logits.
        recipe: how it is trained on CIFAR-10, and on other data sets unless `recipes` says
            otherwise.
        recipes: changes of the recipe by the data set's name.
        feature_layer: the layer that is the hint layer when the network teaches and the guided
            layer when it learns; None if the network has no maps.
        dropout: the default rate of the dropout before the last layer; None if there is none.
        smallest_side: the fewest pixels that an image may be high and wide.
        version: of a user's own network, a value that differs if its file may have changed; None if
            it is of the catalogue.
        starts_from: what its initial weights follow from: seed, function (which may set them) or
            file (whose weights may be kept).
    """

    name: str
    summary: str
    build: Callable[[Spec], keras.Model]
    recipe: Recipe
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    feature_layer: str | None = None
    dropout: float | None = None
    smallest_side: int = 1
    version: Hashable | None = None
    starts_from: Literal["seed", "function", "file"] = "seed"

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own."""
        return self.version is not None
