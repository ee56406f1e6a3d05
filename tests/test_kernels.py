"""What fused kernels compute, against NumPy, SciPy and Keras' own operations, and who uses them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from kdflow import kernels
from kdflow.artifacts.hints import Recomputed
from kdflow.config.fitting import Settings
from kdflow.dataset import Images
from kdflow.evaluate.metrics import predict_logits
from kdflow.features import features
from kdflow.kernels import fused, fused_kernels
from kdflow.lazy import lazy_import
from kdflow.network import build
from kdflow.precision import MIXED, computing_in, predicting_in
from kdflow.training.hint import fit_hint
from kdflow.training.loop import fit
from kdflow.training.objective import Labels
from kdflow.training.speed import seconds_per_image

tensorflow = lazy_import("tensorflow")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="these kernels are TensorFlow's"
)
Z = np.linspace(-12, 12, 4801)
TYPES = {"float32": 3e-6, "bfloat16": 2**-8}  # and the largest error, relative to max(1, |value|)


def hard_sigmoid(z: np.ndarray) -> np.ndarray:
    values: np.ndarray = np.clip(z / 6 + 0.5, 0, 1)
    return values


ACTIVATIONS: dict[Any, tuple[Callable[[np.ndarray], np.ndarray], ...]] = {
    keras.activations.gelu: (lambda z: z * norm.cdf(z), lambda z: norm.cdf(z) + z * norm.pdf(z)),
    keras.activations.silu: (
        lambda z: z * expit(z),
        lambda z: expit(z) * (1 + z * (1 - expit(z))),
    ),
    keras.activations.hard_silu: (
        lambda z: z * hard_sigmoid(z),
        lambda z: hard_sigmoid(z) + z / 6 * (np.abs(z) < 3),
    ),
}


def as_array(tensor: Any) -> np.ndarray:
    return np.asarray(tensorflow.cast(tensor, "float32"), np.float64)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_activations_and_their_derivatives_are_those_of_the_formula(
    activation: Callable[[Any], Any], dtype: str
) -> None:
    value, derivative = ACTIVATIONS[activation]
    has_corners = activation is keras.activations.hard_silu  # at -3 and 3
    z = tensorflow.cast(Z[np.abs(np.abs(Z) - 3) > 1e-2] if has_corners else Z, dtype)

    def step(z: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(z)
            y = fused(activation)(z)
        return y, tape.gradient(y, z, output_gradients=tensorflow.ones_like(z) * 2)

    y, slope = tensorflow.function(step)(z)
    assert y.dtype == slope.dtype == dtype
    exact = as_array(z)  # what the type has made of it
    for found, expected in ((y, value(exact)), (slope, 2 * derivative(exact))):
        error = np.abs(as_array(found) - expected) / np.maximum(1, np.abs(expected))
        assert error.max() < TYPES[dtype]


def test_a_trace_is_shared_by_networks_since_tensorflow_never_frees_one() -> None:
    from tensorflow.python.framework import ops

    gelu = fused(keras.activations.gelu)
    counts = []
    for width in (3, 4, 5):
        tensorflow.function(gelu)(tensorflow.zeros((2, width)))
        counts.append(len(ops.gradient_registry.list()))
    assert counts[0] == counts[1] == counts[2]


def normalised(**options: Any) -> keras.Model:
    maps = keras.Input((4, 5, 3))
    return keras.Model(maps, keras.layers.BatchNormalization(**options, name="norm")(maps))


def weighing(shape: tuple[int, ...]) -> np.ndarray:
    """What the gradients are taken of: the sum of the outputs, weighed by these numbers."""
    return np.random.default_rng(1).normal(size=shape)


def outputs_and_gradients(
    network: keras.Model, x: np.ndarray, training: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The network's output, and the gradients of its input and its weights."""

    def step(x: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(x)
            y = network(x, training=training)
        upstream = tensorflow.cast(weighing(x.shape), y.dtype)
        return y, tape.gradient(y, [x, *network.trainable_weights], output_gradients=upstream)

    y, gradients = tensorflow.function(step)(tensorflow.constant(x, "float32"))
    return as_array(y), [as_array(each) for each in gradients]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False, "epsilon": 1e-7}])
def test_normalisation_of_a_batch_is_that_of_the_formula(
    options: dict[str, Any], dtype: str
) -> None:
    normal = np.random.default_rng(0).normal(size=(6, 4, 5, 3))
    x = as_array(tensorflow.cast(3 + 2 * normal, dtype))
    policy = MIXED if dtype == "bfloat16" else dtype
    network = normalised(momentum=0.7, dtype=policy, **options)
    layer = network.get_layer("norm")
    gamma, beta = np.array([0.5, 1, 2]), np.array([-1, 0, 3])
    if layer.scale:
        layer.gamma.assign(gamma)
    if layer.center:
        layer.beta.assign(beta)
    with fused_kernels(network):
        y, (downstream, *_) = outputs_and_gradients(network, x, training=True)
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    factor = (gamma if layer.scale else 1) / np.sqrt(variance + layer.epsilon)
    white = (x - mean) / np.sqrt(variance + layer.epsilon)
    expected = factor * (x - mean) + (beta if layer.center else 0)
    assert y == pytest.approx(expected, rel=TYPES[dtype], abs=4 * TYPES[dtype])
    assert as_array(layer.moving_mean) == pytest.approx(0.3 * mean, rel=1e-5)
    assert as_array(layer.moving_variance) == pytest.approx(0.7 + 0.3 * variance, rel=1e-5)
    # Ioffe and Szegedy 2015, "Batch Normalization", the gradients of section 3
    upstream = as_array(tensorflow.cast(weighing(x.shape), dtype))
    of_mean = upstream.mean(axis=(0, 1, 2))
    of_variance = white * (upstream * white).mean(axis=(0, 1, 2))
    expected = factor * (upstream - of_mean - of_variance)
    assert downstream == pytest.approx(expected, abs=8 * TYPES[dtype])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_normalisation_has_the_gradients_of_keras_and_uses_moving_statistics_when_keras_does(
    training: bool, frozen: bool
) -> None:
    x = 3 + 2 * np.random.default_rng(0).normal(size=(6, 4, 5, 3))
    network = normalised()
    layer = network.get_layer("norm")
    layer.moving_mean.assign([1, 2, 3])
    layer.moving_variance.assign([1, 4, 9])
    layer.trainable = not frozen
    before = network.get_weights()
    expected = outputs_and_gradients(network, x, training)
    statistics = network.get_weights()
    network.set_weights(before)
    with fused_kernels(network):
        found = outputs_and_gradients(network, x, training)
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    for mine, theirs in zip(network.get_weights(), statistics, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_one_value_has_a_variance_of_zero() -> None:
    maps = keras.Input((1, 1, 2))
    layer = keras.layers.BatchNormalization(momentum=0)
    network = keras.Model(maps, layer(maps))
    with fused_kernels(network):
        y = network(np.full((1, 1, 1, 2), 7.0), training=True)
    assert as_array(y).tolist() == [[[[0, 0]]]]
    assert as_array(layer.moving_variance).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_inputs_of_another_type_are_left_to_keras(dtype: str) -> None:
    pixels = keras.Input((4, 5, 3), dtype=dtype)
    network = keras.Model(pixels, keras.layers.BatchNormalization(autocast=False)(pixels))
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(dtype)
    expected = as_array(network(images, training=True))
    assert expected.std() == pytest.approx(1, abs=1e-3)
    with fused_kernels(network):
        assert np.array_equal(as_array(network(images, training=True)), expected)


def test_the_number_of_channels_may_be_unknown_in_a_graph() -> None:
    network, any_shape = normalised(momentum=0), tensorflow.TensorSpec((None, None, None, None))
    x = np.random.default_rng(0).normal(size=(6, 4, 5, 3))

    def step(x: Any) -> Any:
        return network.get_layer("norm")(x, training=True)

    with fused_kernels(network):
        tensorflow.function(step, input_signature=[any_shape])(x.astype(np.float32))
    statistics = as_array(network.get_layer("norm").moving_variance)
    assert statistics == pytest.approx(x.var(axis=(0, 1, 2)), rel=1e-5)


def test_a_recurrent_layer_whose_cell_has_the_activation() -> None:
    rows = keras.Input((4, 5))
    network = keras.Model(rows, keras.layers.GRU(3, activation="gelu")(rows))
    x = np.random.default_rng(0).normal(size=(2, 4, 5))
    expected = as_array(network(x))
    with fused_kernels(network):
        assert as_array(network(x)) == pytest.approx(expected, abs=1e-6)
    (layer,) = network.layers[1:]
    assert layer.activation is keras.activations.gelu


class OwnNormalization(keras.layers.BatchNormalization):
    """A user's own: what its `call` does is not known."""


def with_fused_kernels(network: keras.Model) -> list[str]:
    with fused_kernels(network):
        return [
            layer.name
            for layer in network.layers
            if "call" in vars(layer)
            or vars(layer).get("activation") in map(fused, kernels.ACTIVATIONS)
        ]


def test_they_replace_what_they_compute_and_nothing_else() -> None:
    x = images = keras.Input((8, 8, 3))
    norm = keras.layers.BatchNormalization
    for name, layer in {
        "norm": norm(),
        "gelu": keras.layers.Activation("gelu"),
        "conv": keras.layers.Conv2D(3, 1, activation="silu"),
        "relu": keras.layers.Activation("relu"),
        "tanh": keras.layers.Activation(lambda x: keras.activations.gelu(x, approximate=True)),
        "rows": norm(axis=1),
        "renorm": norm(renorm=True),
        "own": OwnNormalization(),
        "float64": norm(dtype="float64"),
        "bfloat16": norm(dtype="mixed_bfloat16"),
        "pure": norm(dtype="bfloat16"),
        "flat": keras.layers.Flatten(),
        "vectors": norm(),
    }.items():
        layer.name = name
        x = layer(x)
    network = keras.Model(images, x)
    assert with_fused_kernels(network) == ["norm", "gelu", "conv", "bfloat16"]


def test_a_mask_is_left_to_keras() -> None:
    network = normalised()
    layer, x = network.get_layer("norm"), np.random.default_rng(0).normal(size=(2, 4, 5, 3))
    mask = np.zeros((2, 4, 5), bool)
    mask[0] = True
    expected = as_array(layer(x, training=True, mask=mask))
    layer.moving_mean.assign([0, 0, 0])
    with fused_kernels(network):
        assert np.array_equal(as_array(layer(x, training=True, mask=mask)), expected)


@pytest.mark.parametrize("raises", [False, True])
def test_afterwards_the_layers_are_what_they_were(raises: bool) -> None:
    images = keras.Input((8, 8, 3))
    gelu = keras.layers.Activation("gelu", name="gelu")
    network = keras.Model(images, gelu(keras.layers.BatchNormalization(name="norm")(images)))
    before = network.get_config(), {layer.name: dict(vars(layer)) for layer in network.layers}
    try:
        with fused_kernels(network):
            assert vars(network.get_layer("norm")) != before[1]["norm"]
            assert gelu.activation is not keras.activations.gelu
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    after = network.get_config(), {layer.name: dict(vars(layer)) for layer in network.layers}
    assert after == before


def test_a_block_in_another_changes_nothing_more() -> None:
    network = normalised()
    with fused_kernels(network):
        call = vars(network.get_layer("norm"))["call"]
        with fused_kernels(network):
            assert vars(network.get_layer("norm"))["call"] is call
        assert vars(network.get_layer("norm"))["call"] is call


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "computes_on_processor", lambda: False)
    assert with_fused_kernels(normalised()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-4), ("bfloat16", 0.06)])
def test_the_gradients_of_a_whole_network_are_those_of_keras(
    precision: Any, error: float, train: Images
) -> None:
    network = build("whitened", train, 3, seed=0)
    images = tensorflow.constant(train.images[:32])
    labels = tensorflow.constant(train.labels[:32], "int32")
    weights = network.get_weights()

    def gradients() -> np.ndarray:
        network.set_weights(weights)

        def step() -> Any:
            with tensorflow.GradientTape() as tape:
                logits = tensorflow.cast(network(images, training=True), "float32")
                losses = keras.losses.sparse_categorical_crossentropy(labels, logits, True)
                loss = tensorflow.reduce_mean(losses)
            return tape.gradient(loss, network.trainable_weights)

        return np.concatenate([as_array(each).ravel() for each in tensorflow.function(step)()])

    with computing_in(precision, network):
        expected = gradients()
        with fused_kernels(network):
            found = gradients()
    assert np.linalg.norm(found - expected) < error * np.linalg.norm(expected)
    assert not np.array_equal(found, expected)  # so they were used


SETTINGS = Settings("sgd", 0.01, epochs=1, batch_size=27, seed=0)


def learns_from_hints(network: keras.Model, train: Images) -> None:
    guided = features(network, "maps")
    hints = Recomputed(features(network, "scaled"), train.images)
    list(
        fit_hint(
            guided,
            train,
            train,
            train_hints=hints,
            validation_hints=hints,
            settings=SETTINGS,
        )
    )


def predicts_logits(count: int, network: keras.Model, train: Images) -> None:
    predict_logits(network, train.images, np.arange(count) % len(train.images))


def predicts(network: keras.Model, train: Images) -> None:
    with predicting_in("float32", network) as predicting:
        predicting.predict_on_batch(train.images)


@pytest.mark.parametrize(
    ("use", "statistics"),
    [
        (lambda network, train: list(fit(network, train, train, Labels(), SETTINGS)), {"batch"}),
        (learns_from_hints, {"batch", "moving"}),
        (lambda network, train: seconds_per_image(network, train, 16), {"batch"}),
        (predicts, {"moving"}),
        (partial(predicts_logits, 1_000), {"moving"}),
        (partial(predicts_logits, 999), set()),
    ],
)
def test_who_uses_them_and_for_what(
    use: Callable[..., Any], statistics: set[str], train: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, name="scaled")(images)
    x = keras.layers.BatchNormalization(name="maps")(x)
    network = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    used = set()
    normalise = kernels._normalise

    def noted(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        used.add("batch" if training else "moving")
        return normalise(layer, inputs, training, mask)

    monkeypatch.setattr(kernels, "_normalise", noted)
    use(network, train)
    assert used == statistics
