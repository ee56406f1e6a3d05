"""A network as a Keras model: build it, hash it."""

import hashlib
import json
from collections.abc import Collection, Hashable
from functools import lru_cache
from typing import Any

import keras

from kdflow import interrupts
from kdflow.adapt import adapted_layers
from kdflow.catalogue.networks import find_network
from kdflow.catalogue.networks.record import Network, Spec
from kdflow.dataset import Images
from kdflow.errors import KdflowError
from kdflow.image_file import ImageShape

# A `keras.json` in the user's home could set another float type or data format, and with it other
# networks and results under the same parameters.
keras.config.set_floatx("float32")
keras.config.set_dtype_policy("float32")
keras.config.set_image_data_format("channels_last")
keras.config.set_epsilon(1e-7)


def record_of(name: str) -> Network:
    """The record of a network of the catalogue, or of a user's own.

    Raises:
        KdflowError: there is none.
    """
    try:
        return find_network(name)
    except ValueError as error:
        raise KdflowError(f"{error}, got {name!r}") from error


def check_fit(
    name: str,
    image_shape: ImageShape,
    classes: int,
    dropout: float = 0,
    *,
    keeps_weights: bool = False,
) -> None:
    """Refuse images that the network cannot take, a dropout that it does not have, and a network of
    the user's own that does not classify these images.

    Raises:
        KdflowError: says what was expected and what was received.
    """
    record = record_of(name)
    height, width, _ = image_shape
    if min(height, width) < record.smallest_side:
        raise KdflowError(
            f"{name}: expected images of at least {record.smallest_side}x{record.smallest_side}"
            f" pixels, got {height}x{width}"
        )
    if dropout and record.dropout is None:
        reason = "as none is added to your own" if record.is_own else "as it has no such layer"
        raise KdflowError(f"{name}: expected dropout=0, {reason}, got {dropout}")
    if keeps_weights and record.starts_from != "file":
        raise KdflowError(
            f"{name}: expected initial_weights=fresh, as only a .keras file has weights to start"
            " from, got kept"
        )
    if record.is_own:
        untrained(name, image_shape, classes)


def build(
    name: str,
    train: Images,
    classes: int,
    *,
    seed: int,
    dropout: float | None = None,
    keeps_weights: bool = False,
) -> keras.Model:
    """A freshly initialised network for images like these.

    The seed is set here, immediately before the layers exist: Dropout draws its own seed at
    construction, so whatever ran earlier in the process changes nothing.

    Args:
        name: a network of the catalogue, or a user's network.
        train: the training images; a network that whitens takes its fixed weights from them.
        classes: the number of logits.
        seed: initial weights and dropout masks follow from it.
        dropout: the rate of the dropout before the last layer, the network's own if None.
        keeps_weights: start from the weights that a file has.
    """
    image_shape: ImageShape = train.images.shape[1:]
    check_fit(name, image_shape, classes, dropout or 0, keeps_weights=keeps_weights)
    record = record_of(name)
    rate = (record.dropout or 0.0) if dropout is None else dropout
    with interrupts.delayed_to_the_end():
        keras.utils.set_random_seed(seed)
        return record.build(Spec(image_shape, classes, rate, train.sample, seed, keeps_weights))


def untrained(name: str, image_shape: ImageShape, classes: int) -> keras.Model:
    """The network with random weights: for its shapes. A user's own is built once."""
    record = record_of(name)
    if record.is_own:
        return _built_once(name, record.version, image_shape, classes, False)
    return record.build(Spec(image_shape, classes, record.dropout or 0.0))


@lru_cache(maxsize=16)
def _built_once(
    name: str, version: Hashable, image_shape: ImageShape, classes: int, keeps_weights: bool
) -> keras.Model:
    return record_of(name).build(Spec(image_shape, classes, keeps_weights=keeps_weights))


def identity(name: str, image_shape: ImageShape, classes: int, *, keeps_weights: bool) -> str:
    """The identifier in keys of a user's network, whatever its file is called: the SHA-256 of its
    architecture, of how it is initialised and regularised, and of the weights that it starts from,
    where these do not follow from the seed."""
    record = record_of(name)
    built = _built_once(name, record.version, image_shape, classes, keeps_weights)
    sets_weights = keeps_weights or record.starts_from == "function"
    adapted = [weights_sha256(layer) for layer in adapted_layers(built)]  # not from the seed
    described = [
        architecture_sha256(built),
        _plain(built.get_config(), without=() if record.starts_from == "function" else {"seed"}),
        weights_sha256(built) if sets_weights else "of the seed",
        *adapted,
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def untrained_statistics(network: keras.Model, steps: int) -> float:
    """The share of their initial values that the moving statistics of batch normalisation still
    have after a training, 0 to 1: of the layer in which they change most slowly."""
    momenta = [
        layer.momentum
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    share: float = max(momenta, default=0.0) ** steps
    return share


def weights_sha256(model: keras.Layer) -> str:
    """The SHA-256 of the weights of a model or layer: shapes, dtypes and bytes, in their order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.shape} {weight.dtype} ".encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()


# Entries of a layer's config that affect its training, not what it computes.
NOT_COMPUTED = {"trainable", "seed", "rate", "build_config"}


def architecture_sha256(model: keras.Model) -> str:
    """The SHA-256 of what a model computes from its weights: its layers, their settings and how
    they are connected. Initialisers, seeds, dropout rates, and which layers learn are left out."""
    described = json.dumps(_computation(model.get_config()), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _computation(config: Any) -> Any:
    return _plain(config, without=NOT_COMPUTED, without_initializers=True)


def _plain(value: Any, without: Collection[str], *, without_initializers: bool = False) -> Any:
    """A config as plain values, without the settings of these names."""
    if isinstance(value, dict):
        return {
            name: _plain(item, without, without_initializers=without_initializers)
            for name, item in value.items()
            if name not in without and not (without_initializers and name.endswith("_initializer"))
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item, without, without_initializers=without_initializers) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
