import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import ops

from kdflow.catalogue.networks import NETWORKS
from kdflow.config.training import default_teacher, recipe
from kdflow.dataset import Dataset, Images
from kdflow.errors import KdflowError
from kdflow.features import feature_maps
from kdflow.network import build, untrained
from kdflow.size import multiply_adds

PARAMETERS = {"vgg": 12_372_746, "fast": 1_973_944, "student": 268_650, "pupil": 131_882}


def images_of(height: int, width: int, channels: int, count: int = 20) -> Images:
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    return Images(images, np.arange(count) % 10, np.arange(count))


@cache
def on_cifar10(name: str) -> keras.Model:
    return untrained(name, (32, 32, 3), 10)


def feature_shape(name: str, size: int, channels: int) -> tuple[int, ...]:
    network = untrained(name, (size, size, channels), 10)
    return feature_maps(network)[str(NETWORKS[name].feature_layer)]


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_on_cifar10_the_parameter_counts_are_the_notebooks(name: str, parameters: int) -> None:
    assert on_cifar10(name).count_params() == parameters


def test_the_other_students_have_the_parameters_of_their_layers_and_at_most_270000() -> None:
    widths = [3, 16, 16, 16, 32, 32, 32, 48, 48, 64]
    convolutions = sum((3 * 3 * before + 1) * after for before, after in pairwise(widths))
    fitnet = 2 * convolutions + 2 * (64 + 1) * 500 + (500 + 1) * 10
    dense = (32 * 32 * 3 + 1) * 80 + (80 + 1) * 80 + (80 + 1) * 10
    for name, parameters in {"fitnet": fitnet, "dense": dense}.items():
        assert on_cifar10(name).count_params() == parameters <= 270_000


def trained_parameters(network: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in network.trainable_weights)


def test_resnet20_is_the_one_of_he_et_al() -> None:
    network = on_cifar10("resnet20")
    # He et al. 2016, section 4.2: a convolution of 16, then 6 of each width: by the
    # side of the maps, how many pairs of maps have a 3x3 kernel
    kernels = {32: 3 * 16 + 6 * 16 * 16, 16: 16 * 32 + 5 * 32 * 32, 8: 32 * 64 + 5 * 64 * 64}
    dense, normalised = 64 * 10, 7 * 16 + 6 * 32 + 6 * 64
    parameters = 9 * sum(kernels.values()) + dense + 10 + 2 * normalised
    assert trained_parameters(network) == parameters == 269_722
    assert network.count_params() == parameters + 2 * normalised
    convolutions = sum(side**2 * 9 * kernel for side, kernel in kernels.items())
    assert multiply_adds(network) == convolutions + dense == 40_551_040


def test_whitened_has_the_maps_of_jordan_2024_and_three_narrow_groups() -> None:
    network = on_cifar10("whitened")
    # the side of the maps, and the channels before and after each convolution
    layers = [(31, 24, 64), (15, 64, 64), (15, 64, 78), (7, 78, 78), (7, 78, 78), (3, 78, 78)]
    kernels = sum(9 * before * after for _, before, after in layers)
    normalised = 2 * (64 + 78 + 78)
    fixed = 2 * 2 * 3 * 24 + 24
    # as PyTorch counts, with scales that stay 1 and without moving means and variances
    assert fixed + kernels + 2 * normalised + 78 * 10 == 261_856
    assert network.count_params() == 261_856 + normalised == 262_296
    assert trained_parameters(network) == kernels + normalised + 78 * 10
    convolutions = sum(side**2 * 9 * before * after for side, before, after in layers)
    assert multiply_adds(network) == 31**2 * 2 * 2 * 3 * 24 + convolutions + 78 * 10 == 37_824_504


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 6, 3)])
def test_a_shortcut_of_resnet20_has_every_second_pixel_and_zeros_for_the_new_channels(
    shape: tuple[int, int, int],
) -> None:
    images = images_of(*shape, count=2)
    network = build("resnet20", images, 10, seed=0)
    ends = [network.get_layer(f"block{name}").output for name in ("1_3_relu", "2_1_zeros")]
    before, after = map(ops.convert_to_numpy, keras.Model(network.input, ends)(images.images))
    np.testing.assert_array_equal(after[..., :16], before[:, ::2, ::2])
    assert after.shape[-1] == 32
    assert not after[..., 16:].any()


def test_where_a_block_of_resnet20_halves_its_kernels_are_centred_on_the_shortcuts_pixels() -> None:
    network = untrained("resnet20", (32, 32, 3), 10)
    layer = network.get_layer("block2_1_conv1")
    kernel = np.zeros(layer.kernel.shape, np.float32)
    kernel[1, 1, 0, 0] = 1  # passes the middle of each window on
    layer.kernel.assign(kernel)
    maps = np.random.default_rng(0).normal(size=(1, 32, 32, 16)).astype(np.float32)
    padded = network.get_layer("block2_1_conv1_pad")(maps)
    np.testing.assert_array_equal(layer(padded)[..., 0], maps[:, ::2, ::2, 0])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_documentation_states_its_parameters_on_cifar10(name: str) -> None:
    assert f"{on_cifar10(name).count_params():,} parameters" in str(NETWORKS[name].build.__doc__)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_record_is_found_by_the_name_of_its_network(name: str) -> None:
    assert NETWORKS[name].name == on_cifar10(name).name == name


def test_all_networks_but_dense_have_a_feature_layer_with_maps() -> None:
    without = [name for name, record in NETWORKS.items() if record.feature_layer is None]
    assert without == ["dense"]
    for name, record in NETWORKS.items():
        assert record.feature_layer is None or record.feature_layer in feature_maps(
            on_cifar10(name)
        )


def test_on_cifar10_both_teachers_hints_fit_the_students_guided_layers() -> None:
    assert feature_shape("vgg", 32, 3) == feature_shape("fast", 32, 3) == (8, 8, 256)
    assert feature_shape("student", 32, 3) == feature_shape("fitnet", 32, 3) == (8, 8, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dropout_before_the_last_layer_is_the_networks_unless_another_is_asked_for(
    name: str,
) -> None:
    def rate(dropout: float | None) -> float:
        network = build(name, images_of(8, 8, 1), 10, seed=0, dropout=dropout)
        before = network.get_layer("logits").input._keras_history.operation
        return float(before.rate) if isinstance(before, keras.layers.Dropout) else 0.0

    own = NETWORKS[name].dropout or 0
    assert own == rate(None) == rate(own)
    if own:
        assert (rate(0.1), rate(0.0)) == (0.1, 0.0)
    else:
        with pytest.raises(KdflowError, match=f"{name}: expected dropout=0, .* got 0.1"):
            build(name, images_of(8, 8, 1), 10, seed=0, dropout=0.1)


def test_on_digits_the_teacher_is_large_and_its_hint_fits() -> None:
    teacher = default_teacher("digits")
    sizes = [untrained(name, (8, 8, 1), 10).count_params() for name in (teacher, "student")]
    assert sizes[0] >= 10 * sizes[1]
    for name in ("student", "fitnet"):
        assert feature_shape(teacher, 8, 1)[:2] == feature_shape(name, 8, 1)[:2] == (2, 2)


def test_a_recipe_is_the_networks_changed_by_the_data_sets_changed_by_its_own_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = replace(NETWORKS["fast"], recipes={"digits": {"epochs": 7, "augment": 3}})
    monkeypatch.setitem(NETWORKS, "fast", own)
    assert recipe("cifar10", "fast") == own.recipe
    assert recipe("digits", "fast")._asdict() == {
        **own.recipe._asdict(),
        # of digits, for every network
        **{"optimizer": "adam", "learning_rate": 0.001, "batch_size": 32, "schedule": "constant"},
        **{"epochs": 7, "augment": 3},
    }


def test_a_layer_of_fitnet_is_the_larger_of_its_two_linear_maps() -> None:
    images = images_of(8, 8, 1)
    network = build("fitnet", images, 10, seed=0)
    for name, kind in {"conv2_3": keras.layers.Conv2D, "dense500": keras.layers.Dense}.items():
        pieces = [network.get_layer(f"{name}_{piece}") for piece in (1, 2)]
        outputs = [layer.output for layer in (*pieces, network.get_layer(name))]
        observed = keras.Model(network.input, outputs)(images.images)
        one, two, larger = map(ops.convert_to_numpy, observed)
        assert all(isinstance(layer, kind) for layer in pieces)
        assert all(layer.activation is keras.activations.linear for layer in pieces)
        np.testing.assert_array_equal(larger, np.maximum(one, two))


def test_fitnets_maps_keep_their_mean_square_from_layer_to_layer_of_equal_width() -> None:
    images = images_of(32, 32, 3)
    network = build("fitnet", images, 10, seed=0)
    names = ["conv1_1", "conv1_3", "conv2_1", "conv2_3", "conv3_1", "conv3_2"]
    maps = keras.Model(network.input, [network.get_layer(name).output for name in names])
    squares = [np.square(outputs).mean() for outputs in maps(images.images)]
    for before, after in zip(squares[::2], squares[1::2], strict=True):
        assert 0.5 < after / before < 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "epochs"), [("fitnet", 30), ("dense", 40), ("resnet20", 30)])
def test_the_other_students_start_to_learn(
    tiny: Dataset, train: Images, name: str, epochs: int
) -> None:
    network = build(name, train, 3, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(0.001), loss, metrics=["accuracy"])
    log = network.fit(tiny.x_train, tiny.y_train, batch_size=12, epochs=epochs, verbose=0)
    assert log.history["loss"][-1] < log.history["loss"][0] / 2
    assert log.history["accuracy"][-1] > 0.9


@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 17, 4), (5, 5, 3)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_adapt_to_other_images_and_classes(name: str, shape: tuple[int, int, int]) -> None:
    images = images_of(*shape)
    logits = build(name, images, 7, seed=0)(images.images[:2])
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_raw_pixels_and_end_in_logits(name: str) -> None:
    network = on_cifar10(name)
    assert network.inputs[0].dtype == "uint8"
    assert network.get_layer("rescaling").scale == 1 / 255
    last = network.layers[-1]
    assert last.name == "logits"
    assert getattr(last, "activation", keras.activations.linear) is keras.activations.linear


@pytest.mark.parametrize("name", ["vgg", "student", "pupil"])
def test_only_the_first_convolution_is_he_normal(name: str) -> None:
    convolutions = [
        layer for layer in on_cifar10(name).layers if isinstance(layer, keras.layers.Conv2D)
    ]
    kinds = [type(layer.kernel_initializer).__name__ for layer in convolutions]
    assert kinds == ["HeNormal"] + ["GlorotUniform"] * (len(kinds) - 1)
