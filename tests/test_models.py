from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import ops

from kdflow import models
from kdflow.config import DIGITS_RECIPES, NETWORK_NAMES, RECIPES, default_teacher
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.models import (
    FEATURE_LAYERS,
    NETWORKS,
    build,
    feature_layer,
    feature_maps,
    features,
    weights_sha256,
    whitening,
)

PARAMETERS = {"vgg": 12_372_746, "fast": 1_973_944, "student": 268_650, "pupil": 131_882}


def images_of(height: int, width: int, channels: int, count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def feature_shape(name: str, size: int, channels: int) -> tuple[int, ...]:
    network = NETWORKS[name]((size, size, channels), 10)
    return tuple(network.get_layer(FEATURE_LAYERS[name]).output.shape[1:])


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_on_cifar10_the_parameter_counts_are_the_notebooks(name: str, parameters: int) -> None:
    assert NETWORKS[name]((32, 32, 3), 10).count_params() == parameters


def test_the_other_students_have_the_parameters_of_their_layers_and_at_most_270000() -> None:
    widths = [3, 16, 16, 16, 32, 32, 32, 48, 48, 64]
    convolutions = sum((3 * 3 * before + 1) * after for before, after in pairwise(widths))
    fitnet = 2 * convolutions + 2 * (64 + 1) * 500 + (500 + 1) * 10
    dense = (32 * 32 * 3 + 1) * 80 + (80 + 1) * 80 + (80 + 1) * 10
    for name, parameters in {"fitnet": fitnet, "dense": dense}.items():
        assert NETWORKS[name]((32, 32, 3), 10).count_params() == parameters <= 270_000
        assert f"{parameters:,} parameters" in str(NETWORKS[name].__doc__)


def test_every_network_has_a_name_in_the_config_and_all_but_dense_a_feature_layer() -> None:
    assert tuple(NETWORKS) == NETWORK_NAMES == (*FEATURE_LAYERS, "dense")


def test_on_cifar10_both_teachers_hints_fit_the_students_guided_layers() -> None:
    assert feature_shape("vgg", 32, 3) == feature_shape("fast", 32, 3) == (8, 8, 256)
    assert feature_shape("student", 32, 3) == feature_shape("fitnet", 32, 3) == (8, 8, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dropout_before_the_last_layer_is_the_recipes_unless_another_is_asked_for(
    name: str,
) -> None:
    def rate(dropout: float | None) -> float:
        network = build(name, images_of(8, 8, 1), 10, seed=0, dropout=dropout)
        before = network.get_layer("logits").input._keras_history.operation
        return float(before.rate) if isinstance(before, keras.layers.Dropout) else 0.0

    own = RECIPES[name].dropout
    assert own == DIGITS_RECIPES[name].dropout == rate(None) == rate(own)
    if own:
        assert (rate(0.1), rate(0.0)) == (0.1, 0.0)
    else:
        with pytest.raises(KdflowError, match=f"{name}: expected dropout=0, .* got 0.1"):
            build(name, images_of(8, 8, 1), 10, seed=0, dropout=0.1)


def test_on_digits_the_teacher_is_large_and_its_hint_fits() -> None:
    teacher = default_teacher("digits")
    sizes = [NETWORKS[name]((8, 8, 1), 10).count_params() for name in (teacher, "student")]
    assert sizes[0] >= 10 * sizes[1]
    for name in ("student", "fitnet"):
        assert feature_shape(teacher, 8, 1)[:2] == feature_shape(name, 8, 1)[:2] == (2, 2)


def test_a_layer_of_fitnet_is_the_larger_of_its_two_linear_maps() -> None:
    network = build("fitnet", images_of(8, 8, 1), 10, seed=0)
    for name, kind in {"conv2_3": keras.layers.Conv2D, "dense500": keras.layers.Dense}.items():
        pieces = [network.get_layer(f"{name}_{piece}") for piece in (1, 2)]
        outputs = [layer.output for layer in (*pieces, network.get_layer(name))]
        one, two, larger = keras.Model(network.inputs, outputs).predict(images_of(8, 8, 1))
        assert all(isinstance(layer, kind) for layer in pieces)
        assert all(layer.activation is keras.activations.linear for layer in pieces)
        np.testing.assert_array_equal(larger, np.maximum(one, two))


def test_fitnets_maps_keep_their_mean_square_from_layer_to_layer_of_equal_width() -> None:
    network = build("fitnet", images_of(32, 32, 3), 10, seed=0)
    names = ["conv1_1", "conv1_3", "conv2_1", "conv2_3", "conv3_1", "conv3_2"]
    maps = keras.Model(network.inputs, [network.get_layer(name).output for name in names])
    squares = [np.square(outputs).mean() for outputs in maps.predict(images_of(32, 32, 3))]
    for before, after in zip(squares[::2], squares[1::2], strict=True):
        assert 0.5 < after / before < 2


@pytest.mark.parametrize("name", ["fitnet", "dense"])
def test_the_other_students_start_to_learn(tiny: Dataset, name: str) -> None:
    network = build(name, tiny.x_train, 3, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
    history = network.fit(tiny.x_train, tiny.y_train, batch_size=12, epochs=15, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 2
    assert history["accuracy"][-1] > 0.9


@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 17, 4), (5, 5, 3)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_adapt_to_other_images_and_classes(name: str, shape: tuple[int, int, int]) -> None:
    network = build(name, images_of(*shape), 7, seed=0)
    logits = network(images_of(*shape, count=2))
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()


def test_networks_take_raw_pixels_and_end_in_logits() -> None:
    for name, builder in NETWORKS.items():
        network = builder((32, 32, 3), 10)
        assert network.inputs[0].dtype == "uint8"
        assert network.get_layer("rescaling").scale == 1 / 255
        last = network.layers[-1]
        assert last.name == "logits"
        assert getattr(last, "activation", keras.activations.linear) is keras.activations.linear, (
            name
        )


def test_only_the_first_convolution_is_he_normal() -> None:
    for name in ("vgg", "student", "pupil"):
        convolutions = [
            layer
            for layer in NETWORKS[name]((32, 32, 3), 10).layers
            if isinstance(layer, keras.layers.Conv2D)
        ]
        kinds = [type(layer.kernel_initializer).__name__ for layer in convolutions]
        assert kinds == ["HeNormal"] + ["GlorotUniform"] * (len(kinds) - 1)


@pytest.mark.parametrize("name", ["student", "fitnet", "dense"])
def test_a_seed_gives_the_weights_and_the_dropout_whatever_ran_before(name: str) -> None:
    images = images_of(8, 8, 1)
    first = build(name, images, 10, seed=3)
    dropped = np.asarray(first(images, training=True))
    keras.utils.set_random_seed(99)
    build("vgg", images, 10, seed=5)
    second = build(name, images, 10, seed=3)
    assert weights_sha256(first) == weights_sha256(second)
    assert np.array_equal(dropped, second(images, training=True))
    assert weights_sha256(build(name, images, 10, seed=4)) != weights_sha256(first)


def test_whitened_patches_are_uncorrelated_with_mean_0_and_equal_variance() -> None:
    noise = np.random.default_rng(0).normal(size=(200, 12, 12, 3))
    smooth = noise + np.roll(noise, 1, axis=1) + 0.5 * np.roll(noise, 1, axis=2)
    images = np.clip(128 + 40 * smooth, 0, 255).astype(np.uint8)
    kernel, bias = whitening(images)
    outputs = ops.conv(images / np.float32(255), kernel, padding="valid") + bias
    np.testing.assert_allclose(np.mean(outputs, axis=(0, 1, 2)), np.zeros(12), atol=1e-4)
    covariance = np.cov(np.asarray(outputs).reshape(-1, 12), rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(12), atol=0.1)
    assert abs(covariance - np.diag(np.diag(covariance))).max() < 0.01


def test_the_whitening_convolution_does_not_learn() -> None:
    images = images_of(8, 8, 3)
    network = build("fast", images, 10, seed=0)
    layer = network.get_layer(models.WHITENING_LAYER)
    kernel, bias = whitening(images)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(images, np.arange(20) % 10, verbose=0)
    assert np.array_equal(layer.kernel, np.concatenate([kernel, -kernel], axis=-1))
    assert np.array_equal(layer.bias, np.concatenate([bias, -bias]))


def test_the_fast_network_starts_by_handing_its_channels_on() -> None:
    network = build("fast", images_of(8, 8, 3), 10, seed=0)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 64)).astype("float32")
    same_width = network.get_layer("conv1_2")(x)
    np.testing.assert_allclose(same_width, x, atol=1e-6)
    widened = np.asarray(network.get_layer("conv2_1")(x))
    np.testing.assert_allclose(widened[..., :64], x, atol=1e-6)
    assert widened[..., 64:].std() > 0.1


def test_weights_sha256_tells_one_changed_weight() -> None:
    network = build("pupil", images_of(8, 8, 1), 10, seed=0)
    before = weights_sha256(network)
    bias = network.get_layer("logits").bias
    bias.assign(bias.numpy() + np.eye(10, dtype="float32")[3] * 1e-7)
    assert weights_sha256(network) != before


def test_the_maps_of_a_network_are_what_its_weights_make_of_the_image() -> None:
    assert feature_maps(NETWORKS["student"]((32, 32, 3), 10)) == {
        **{"conv1": (32, 32, 16), "pool1": (16, 16, 16)},
        **{"conv2": (16, 16, 32), "pool2": (8, 8, 32)},
    }


def test_features_are_the_output_of_the_layer_with_the_networks_own_weights() -> None:
    images = images_of(8, 8, 3)
    network = build("pupil", images, 10, seed=0)
    part = features(network, "pool1")
    assert [w is v for w, v in zip(part.weights, network.weights[:2], strict=True)] == [True] * 2
    kernel, bias = (np.asarray(weight) for weight in network.get_layer("conv1").get_weights())
    padded = np.pad(images / 255, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    maps = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0)
    pooled = maps.reshape(20, 4, 2, 4, 2, 16).max(axis=(2, 4))
    np.testing.assert_allclose(part(images), pooled, atol=1e-5)


def test_auto_is_the_networks_own_feature_layer() -> None:
    for name, layer in FEATURE_LAYERS.items():
        network = NETWORKS[name]((32, 32, 3), 10)
        assert feature_layer(network, "auto", "hint_layer") == layer


@pytest.mark.parametrize("layer", ["conv9", "flatten", "dense128", "rescaling", "images"])
def test_a_layer_without_maps_is_refused_with_those_that_have_them(layer: str) -> None:
    with pytest.raises(
        KdflowError,
        match=r"^guided_layer: expected a layer of student whose output is maps \(height, width,"
        rf" channels\), conv1, pool1, conv2, pool2; got '{layer}'$",
    ):
        feature_layer(NETWORKS["student"]((8, 8, 1), 10), layer, "guided_layer")


def test_a_network_without_a_feature_layer_of_its_own_asks_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = NETWORKS["pupil"]((8, 8, 1), 10)
    monkeypatch.delitem(FEATURE_LAYERS, "pupil")
    with pytest.raises(KdflowError, match=r"^guided_layer: .* conv1, pool1; got 'auto'$"):
        feature_layer(network, "auto", "guided_layer")
    assert feature_layer(network, "pool1", "guided_layer") == "pool1"


def test_a_network_of_dense_layers_says_that_it_has_no_maps() -> None:
    images = keras.Input((8, 8, 1), name="images")
    dense = keras.layers.Dense(10, name="logits")(keras.layers.Flatten()(images))
    network = keras.Model(images, dense, name="dense")
    with pytest.raises(KdflowError, match=r"layer of dense .* of which it has none; got 'logits'$"):
        feature_layer(network, "logits", "guided_layer")
