from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kdflow.catalogue.networks import NETWORKS
from kdflow.dataset import Images
from kdflow.errors import KdflowError
from kdflow.features import feature_layers, feature_maps, features, start_from
from kdflow.network import (
    architecture_sha256,
    build,
    check_fit,
    untrained,
    untrained_statistics,
    weights_sha256,
)


def images_of(height: int, width: int, channels: int, count: int = 20) -> Images:
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    return Images(images, np.arange(count) % 10, np.arange(count))


@pytest.mark.parametrize("name", ["student", "fitnet", "dense"])
def test_a_seed_gives_the_weights_and_the_dropout_whatever_ran_before(name: str) -> None:
    train = images_of(8, 8, 1)
    first = build(name, train, 10, seed=3)
    dropped = np.asarray(first(train.images, training=True))
    keras.utils.set_random_seed(99)
    build("pupil", train, 10, seed=5)
    second = build(name, train, 10, seed=3)
    assert weights_sha256(first) == weights_sha256(second)
    assert np.array_equal(dropped, second(train.images, training=True))
    assert weights_sha256(build(name, train, 10, seed=4)) != weights_sha256(first)


def test_images_that_are_too_small_for_a_network_are_refused_before_it_is_built() -> None:
    check_fit("fast", (2, 2, 3), 10)
    for shape in [(1, 5, 3), (5, 1, 3)]:
        with pytest.raises(
            KdflowError,
            match=f"^fast: expected images of at least 2x2 pixels, got {shape[0]}x{shape[1]}$",
        ):
            check_fit("fast", shape, 10)


# --- layers -------------------------------------------------------------------------------------


def test_the_maps_of_a_network_are_what_its_weights_make_of_the_image() -> None:
    assert feature_maps(untrained("student", (32, 32, 3), 10)) == {
        **{"conv1": (32, 32, 16), "pool1": (16, 16, 16)},
        **{"conv2": (16, 16, 32), "pool2": (8, 8, 32)},
    }


def test_features_are_the_output_of_the_layer_with_the_networks_own_weights() -> None:
    train = images_of(8, 8, 3)
    network = build("pupil", train, 10, seed=0)
    part = features(network, "pool1")
    assert [w is v for w, v in zip(part.weights, network.weights[:2], strict=True)] == [True] * 2
    kernel, bias = (np.asarray(weight) for weight in network.get_layer("conv1").get_weights())
    padded = np.pad(train.images / 255, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0)
    pooled = maps.reshape(20, 4, 2, 4, 2, 16).max(axis=(2, 4))
    np.testing.assert_allclose(part(train.images), pooled, atol=1e-5)


def with_backbone() -> keras.Model:
    """A network as transfer learning makes it, of a model for images of any size and new layers."""
    layers = keras.layers
    lower = [layers.Conv2D(4, 3, name="a"), layers.Conv2D(5, 3, strides=2, name="b")]
    inner = keras.Sequential([keras.Input((None, None, 3)), *lower], name="inner")
    images = keras.Input((9, 9, 3))
    maps = layers.Conv2D(6, 1, name="c")(inner(layers.Rescaling(1 / 255)(images)))
    backbone = keras.Model(images, maps, name="backbone")
    pooled = layers.GlobalAveragePooling2D()(backbone(images))
    return keras.Model(images, layers.Dense(3)(pooled), name="flowers")


def test_layers_of_a_model_within_the_network_are_named_after_it_too() -> None:
    network = with_backbone()
    expected = {
        **{"backbone/inner/a": (7, 7, 4), "backbone/inner/b": (3, 3, 5)},
        **{"backbone/inner": (3, 3, 5), "backbone/c": (3, 3, 6), "backbone": (3, 3, 6)},
    }
    assert feature_maps(network) == expected
    assert list(feature_maps(network)) == list(expected)
    shape = network.output_shape
    images = images_of(9, 9, 3).images
    first = network.get_layer("backbone").get_layer("inner").get_layer("a")
    found = features(network, "backbone/inner/a")
    np.testing.assert_allclose(found(images), first(images / 255), atol=1e-6)
    assert {id(weight) for weight in found.weights} == {id(weight) for weight in first.weights}
    whole = features(network, "backbone")(images)
    np.testing.assert_allclose(features(network, "backbone/c")(images), whole, atol=1e-6)
    assert network.output_shape == shape


def test_a_layer_that_is_called_by_keyword_has_features() -> None:
    layers = keras.layers
    images = keras.Input((6, 6, 3))
    maps = layers.Conv2D(4, 3, name="maps")(images)
    attention = layers.MultiHeadAttention(1, 2, attention_axes=(1, 2), name="attention")
    pooled = layers.GlobalAveragePooling2D()(attention(query=maps, value=maps))
    network = keras.Model(images, layers.Dense(3)(pooled))
    assert feature_maps(network) == {"maps": (4, 4, 4), "attention": (4, 4, 4)}


@pytest.mark.parametrize("steps", [1, 3])
def test_what_is_left_of_initial_statistics_is_what_their_average_lacks(steps: int) -> None:
    # the mean of batches of threes, which starts at 0
    slow, fast = (keras.layers.BatchNormalization(momentum=m) for m in (0.9, 0.5))
    inner = keras.Sequential([keras.Input((4,)), slow])
    network = keras.Sequential([keras.Input((4,)), inner, fast])
    for _ in range(steps):
        network(np.full((2, 4), 3.0), training=True)
    reached = float(np.asarray(slow.moving_mean)[0]) / 3
    assert untrained_statistics(network, steps) == pytest.approx(1 - reached)
    assert untrained_statistics(keras.Sequential([keras.Input((4,))]), steps) == 0


def test_a_network_starts_from_a_layer_of_a_model_within_another() -> None:
    network, other = with_backbone(), with_backbone()
    before = network.get_weights()
    start_from(network, features(other, "backbone/inner/a"))
    same = [
        np.array_equal(found, lower)
        for found, lower in zip(network.get_weights(), other.get_weights(), strict=True)
    ]
    assert same[:2] == [True, True]  # kernel and bias of `a`
    for found, own in zip(network.get_weights()[2:], before[2:], strict=True):
        assert np.array_equal(found, own)


def test_a_network_starts_from_the_lower_layers_of_another_and_keeps_its_own_upper_ones() -> None:
    train = images_of(8, 8, 3)
    network, other = (build("student", train, 10, seed=seed) for seed in (0, 1))
    own = network.get_weights()
    start_from(network, features(other, "pool1"))
    for index, (found, before, lower) in enumerate(
        zip(network.get_weights(), own, other.get_weights(), strict=True)
    ):
        assert np.array_equal(found, lower if index < 2 else before)
    assert not np.array_equal(own[0], other.get_weights()[0])


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "dense"])
def test_auto_is_the_networks_own_feature_layer(name: str) -> None:
    network = untrained(name, (32, 32, 3), 10)
    own = NETWORKS[name].feature_layer
    assert feature_layers(network, network, "auto", "auto") == (own, own)


@pytest.mark.parametrize("layer", ["conv9", "flatten", "dense128", "rescaling", "images"])
def test_a_layer_without_maps_is_refused_with_those_that_have_them(layer: str) -> None:
    student = untrained("student", (8, 8, 1), 10)
    with pytest.raises(
        KdflowError,
        match=r"^guided_layer: expected a layer of student whose output is maps \(height, width,"
        rf" channels\), conv1, pool1, conv2, pool2; got '{layer}'$",
    ):
        feature_layers(student, student, "auto", layer)


def mine(*strides: int, name: str = "mine") -> keras.Model:
    """A network with a map per stride, `maps1` and so on, of 32x32 images."""
    images = x = keras.Input((32, 32, 1), name="images")
    for number, stride in enumerate(strides, start=1):
        layer = keras.layers.Conv2D(2, 1, strides=stride, name=f"maps{number}")
        x = layer(x)
    flat = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(images, keras.layers.Dense(10, name="logits")(flat), name=name)


def test_auto_of_ones_own_network_has_the_size_of_the_other_layer() -> None:
    # the hint layer of `fast` has 8x8 maps
    fast = untrained("fast", (32, 32, 3), 10)
    assert feature_layers(fast, mine(1, 2, 2, 1, 2), "auto", "auto") == ("norm2_2_gelu", "maps3")
    student = untrained("student", (32, 32, 3), 10)
    assert feature_layers(mine(2, 1, 2, 2, 2), student, "auto", "auto") == ("maps3", "pool2")


def test_of_several_layers_of_that_size_auto_is_nearest_to_two_thirds_of_the_depth() -> None:
    # depths 1/6 to 1; all 16x16, so that the fourth of six is at two thirds
    own = mine(2, 1, 1, 1, 1, 1)
    assert feature_layers(own, own, "auto", "auto") == ("maps4", "maps4")
    assert feature_layers(own, own, "maps1", "auto") == ("maps1", "maps4")


def test_where_no_layer_has_that_size_auto_is_nearest_to_two_thirds_of_the_depth() -> None:
    other = untrained("pupil", (32, 32, 3), 10)  # 16x16
    assert feature_layers(other, mine(4, 1, 1), "auto", "auto") == ("pool1", "maps2")


def test_a_network_that_only_shares_a_name_with_one_of_the_catalogue_is_ones_own() -> None:
    own = mine(1, 2, 2, name="vgg")  # without the layer `conv3_3`
    assert feature_layers(own, untrained("student", (32, 32, 3), 10), "auto", "auto") == (
        "maps3",
        "pool2",
    )


def test_a_network_of_dense_layers_says_that_it_has_no_maps() -> None:
    images = keras.Input((8, 8, 1), name="images")
    dense = keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(images))
    network = keras.Model(images, dense, name="dense")
    for layer in ("auto", "logits"):
        with pytest.raises(
            KdflowError, match=rf"layer of dense .* of which it has none; got '{layer}'$"
        ):
            feature_layers(mine(1), network, "auto", layer)


# --- hashes -------------------------------------------------------------------------------------


def test_weights_sha256_tells_one_changed_weight() -> None:
    network = build("pupil", images_of(8, 8, 1), 10, seed=0)
    before = weights_sha256(network)
    bias = network.get_layer("logits").bias
    bias.assign(np.asarray(bias) + np.eye(10, dtype="float32")[3] * 1e-7)
    assert weights_sha256(network) != before


def small(
    activation: str = "relu",
    pool: type[keras.Layer] = keras.layers.MaxPooling2D,
    *,
    strides: int = 1,
    rate: float = 0.2,
    seed: int = 0,
    initializer: str = "he_normal",
    trainable: bool = True,
    normalise_first: bool = False,
    crossed: bool = False,
) -> keras.Model:
    """A small network with the same shapes of weights whatever is chosen."""
    images = keras.Input((8, 8, 2), name="images")
    convolutions = [
        keras.layers.Conv2D(
            2,
            3,
            strides=strides,
            padding="same",
            activation=activation,
            kernel_initializer=initializer,
            trainable=trainable,
            name=name,
        )
        for name in ("one", "two")
    ]
    x = images
    for layer in reversed(convolutions) if crossed else convolutions:
        x = layer(x)
    middle = [
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Activation("tanh", name="tanh"),
    ]
    for layer in middle if normalise_first else reversed(middle):
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(pool(2, padding="same", name="pool")(x))
    x = keras.layers.Dropout(rate, seed=seed, name="dropout")(x)
    return keras.Model(images, keras.layers.Dense(3, name="logits")(x), name="small")


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu"},
        {"pool": keras.layers.AveragePooling2D},
        {"strides": 2},
        {"normalise_first": True},
        {"crossed": True},
    ],
    ids=["activation", "pooling", "strides", "order of layers", "connections"],
)
def test_a_network_that_computes_something_else_has_another_architecture(
    changes: dict[str, Any],
) -> None:
    def shapes(network: keras.Model) -> list[tuple[int, ...]]:
        return sorted(tuple(weight.shape) for weight in network.weights)

    network, other = small(), small(**changes)
    # the shapes of the weights do not tell the two apart
    assert shapes(network) == shapes(other)
    assert architecture_sha256(network) != architecture_sha256(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 0.5},
        {"rate": 0.0},
        {"seed": 7},
        {"initializer": "zeros"},
        {"trainable": False},
    ],
    ids=str,
)
def test_what_shapes_only_the_training_is_no_part_of_the_architecture(
    changes: dict[str, Any],
) -> None:
    assert architecture_sha256(small()) == architecture_sha256(small(**changes))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_architecture_is_the_same_after_saving_and_loading_and_from_any_seed(
    name: str, tmp_path: Path
) -> None:
    train = images_of(8, 8, 1)
    network = build(name, train, 10, seed=0)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras", compile=False)
    of_network = architecture_sha256(network)
    assert architecture_sha256(loaded) == of_network
    assert architecture_sha256(build(name, train, 10, seed=1)) == of_network
    assert architecture_sha256(untrained(name, (8, 8, 1), 10)) == of_network
    # of other images, or of other classes
    assert architecture_sha256(untrained(name, (8, 9, 1), 10)) != of_network
    assert architecture_sha256(untrained(name, (8, 8, 1), 11)) != of_network


def test_the_dropout_that_is_asked_for_is_no_part_of_the_architecture() -> None:
    train = images_of(8, 8, 1)
    of_default, of_none = (
        architecture_sha256(build("student", train, 10, seed=0, dropout=dropout))
        for dropout in (None, 0.0)
    )
    assert of_default == of_none
