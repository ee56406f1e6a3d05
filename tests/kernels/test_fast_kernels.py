"""Which layers get which kernels, for how long, and who uses them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from computing import as_array, needs_tensorflow

from kdflow import kernels
from kdflow.artifacts.hints import Recomputed
from kdflow.config.fitting import Settings
from kdflow.dataset import Images
from kdflow.evaluate.metrics import predict_logits
from kdflow.features import features
from kdflow.kernels import fast_kernels, normalisation
from kdflow.lazy import lazy_import
from kdflow.network import build
from kdflow.precision import computing_in, predicting_in
from kdflow.training.hint import fit_hint
from kdflow.training.loop import fit
from kdflow.training.objective import Labels
from kdflow.training.speed import seconds_per_image

tensorflow = lazy_import("tensorflow")

pytestmark = needs_tensorflow


class OwnNormalization(keras.layers.BatchNormalization):
    """A user's own: what its `call` does is not known."""


def normalised() -> keras.Model:
    maps = keras.Input((4, 5, 3))
    return keras.Model(maps, keras.layers.BatchNormalization(name="norm")(maps))


def replaced(network: keras.Model) -> dict[str, set[str]]:
    """The names of the attributes that each layer has others of inside the block."""
    before = {layer.name: dict(vars(layer)) for layer in network.layers}
    with fast_kernels(network):
        names = {
            layer.name: {
                name
                for name, value in vars(layer).items()
                if value is not before[layer.name].get(name)
            }
            for layer in network.layers
        }
    return {layer: changed for layer, changed in names.items() if changed}


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
    assert replaced(network) == {
        "norm": {"call"},
        "gelu": {"activation"},
        "conv": {"activation"},
        "bfloat16": {"call"},
    }


@pytest.mark.parametrize("raises", [False, True])
def test_afterwards_the_layers_are_what_they_were(raises: bool) -> None:
    images = keras.Input((8, 8, 3))
    gelu = keras.layers.Activation("gelu", name="gelu")
    network = keras.Model(images, gelu(keras.layers.BatchNormalization(name="norm")(images)))
    before = network.get_config(), {layer.name: dict(vars(layer)) for layer in network.layers}
    try:
        with fast_kernels(network):
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
    with fast_kernels(network):
        call = vars(network.get_layer("norm"))["call"]
        with fast_kernels(network):
            assert vars(network.get_layer("norm"))["call"] is call
        assert vars(network.get_layer("norm"))["call"] is call


def test_elsewhere_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "computes_on_processor", lambda: False)
    assert replaced(normalised()) == {}


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
        with fast_kernels(network):
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
    normalise = normalisation.call

    def noted(layer: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        used.add("batch" if training else "moving")
        return normalise(layer, inputs, training, mask)

    monkeypatch.setattr(normalisation, "call", noted)
    use(network, train)
    assert used == statistics
