"""A network of the catalogue as a Keras model: build it, take its lower layers, hash it."""

import hashlib
import json
from itertools import dropwhile
from typing import Any

import keras

from kdflow.catalogue.networks import NETWORKS
from kdflow.catalogue.networks.record import ImageShape, Spec
from kdflow.dataset import Images
from kdflow.errors import KdflowError

# A `keras.json` in the user's home could set another float type or data format, and with it other
# networks and results under the same parameters.
keras.config.set_floatx("float32")
keras.config.set_dtype_policy("float32")
keras.config.set_image_data_format("channels_last")
keras.config.set_epsilon(1e-7)


def check_fit(name: str, image_shape: ImageShape, dropout: float = 0) -> None:
    """Refuse images that the network cannot take, and a dropout that it does not have.

    Raises:
        KdflowError: says which it could.
    """
    record = NETWORKS[name]
    height, width, _ = image_shape
    if min(height, width) < record.smallest_side:
        raise KdflowError(
            f"{name}: expected images of at least {record.smallest_side}x{record.smallest_side}"
            f" pixels, got {height}x{width}"
        )
    if dropout and record.dropout is None:
        raise KdflowError(f"{name}: expected dropout=0, as it has no such layer, got {dropout}")


def build(
    name: str, train: Images, classes: int, *, seed: int, dropout: float | None = None
) -> keras.Model:
    """A freshly initialised network for images like these.

    The seed is set here, immediately before the layers exist: Dropout draws its own seed at
    construction, so whatever ran earlier in the process changes nothing.

    Args:
        name: a network of the catalogue.
        train: the training images; a network that whitens takes its fixed weights from them.
        classes: the number of logits.
        seed: initial weights and dropout masks follow from it.
        dropout: the rate of the dropout before the last layer, the network's own if None.
    """
    height, width, channels = train.images.shape[1:]
    image_shape = (height, width, channels)
    check_fit(name, image_shape, dropout or 0)
    record = NETWORKS[name]
    rate = (record.dropout or 0.0) if dropout is None else dropout
    keras.utils.set_random_seed(seed)
    return record.build(Spec(image_shape, classes, rate, train.sample))


def untrained(name: str, image_shape: ImageShape, classes: int) -> keras.Model:
    """The network with random weights: for its shapes."""
    record = NETWORKS[name]
    return record.build(Spec(image_shape, classes, record.dropout or 0.0))


def feature_maps(network: keras.Model) -> dict[str, ImageShape]:
    """The layers whose output is maps that weights have made, in the network's order, each with its
    shape: (height, width, channels)."""
    weighted = dropwhile(lambda layer: not layer.weights, network.layers)
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in weighted}
    return {name: shape for name, shape in shapes.items() if len(shape) == 3}


def feature_layer(network: keras.Model, layer: str, parameter: str) -> str:
    """The layer of `network` that a user means by `layer`, which may be auto.

    Args:
        parameter: what the user gave it as, for the message.

    Raises:
        KdflowError: it is none of `feature_maps`, or the network has no layer of its own in
            the catalogue.
    """
    maps = feature_maps(network)
    record = NETWORKS.get(network.name)
    name = record.feature_layer if layer == "auto" and record else layer
    if name is None or name not in maps:
        raise KdflowError(
            f"{parameter}: expected a layer of {network.name} whose output is maps (height, width,"
            f" channels), {', '.join(maps) or 'of which it has none'}; got {layer!r}"
        )
    return name


def features(network: keras.Model, layer: str) -> keras.Model:
    """`network` up to `layer`, with the same weights: from raw pixels to that layer's output."""
    name = f"{network.name}_to_{layer}"
    return keras.Model(network.input, network.get_layer(layer).output, name=name)


def start_from(network: keras.Model, lower: keras.Model) -> None:
    """Give the lower layers of `network` the weights of `lower`, which `features` made of another
    such network; the layers above keep their own."""
    features(network, lower.layers[-1].name).set_weights(lower.get_weights())


def weights_sha256(model: keras.Model) -> str:
    """The SHA-256 of a model's weights: their shapes, dtypes and bytes, in the model's order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.shape} {weight.dtype} ".encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()


# Of a layer's config: what shapes a training, and not what the layer computes.
NOT_COMPUTED = {"trainable", "seed", "rate", "build_config"}


def architecture_sha256(model: keras.Model) -> str:
    """The SHA-256 of what a model computes from its weights: its layers, their settings and how
    they are connected. Initialisers, seeds, dropout rates, and which layers learn are left out."""
    described = json.dumps(_computation(model.get_config()), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _computation(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _computation(item)
            for name, item in value.items()
            if name not in NOT_COMPUTED and not name.endswith("_initializer")
        }
    if isinstance(value, (list, tuple)):
        return [_computation(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
