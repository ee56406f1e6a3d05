"""The network that is exported computes what the trained one does, from float32 pixels."""

import keras
import numpy as np
import pytest

from kdflow.catalogue.networks import NETWORKS
from kdflow.dataset import Dataset, Images
from kdflow.deploy.pixels import exportable
from kdflow.errors import KdflowError
from kdflow.evaluate.metrics import predict_logits
from kdflow.network import build


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)], name="inner")
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = inner(keras.layers.Rescaling(1 / 255)(images)) * 2 + 1
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


@pytest.mark.parametrize("erf_gelu", [False, True])
@pytest.mark.parametrize("name", [*NETWORKS, "nested"])
def test_the_logits_are_the_same(name: str, erf_gelu: bool, tiny: Dataset, train: Images) -> None:
    network = nested() if name == "nested" else build(name, train, 3, seed=0)
    made = exportable(network, erf_gelu=erf_gelu)
    assert (made.input.name, made.input.dtype) == ("images", "float32")
    floats = made.predict(tiny.x_test.astype(np.float32), verbose=0)
    assert floats == pytest.approx(predict_logits(network, tiny.x_test), abs=2e-5)


def test_a_network_of_another_precision_is_computed_in_float32(tiny: Dataset) -> None:
    images = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255, dtype="mixed_bfloat16")(images)
    x = keras.layers.Flatten(dtype="mixed_bfloat16")(x)
    mixed = keras.Model(images, keras.layers.Dense(3, dtype="mixed_bfloat16")(x))
    made = exportable(mixed)
    floats = made.predict(tiny.x_test.astype(np.float32), verbose=0)
    kernel, bias = mixed.get_weights()
    by_hand = tiny.x_test.reshape(30, -1) / 255 @ kernel + bias
    assert floats == pytest.approx(by_hand, abs=1e-5)


def test_what_a_layer_has_adapted_to_is_kept(tiny: Dataset) -> None:
    images = keras.Input((8, 8, 3), dtype="uint8")
    adapted = keras.layers.Normalization(axis=None)
    adapted.adapt(tiny.x_train)
    network = keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(adapted(images))))
    floats = exportable(network).predict(tiny.x_test.astype(np.float32), verbose=0)
    assert floats == pytest.approx(predict_logits(network, tiny.x_test), abs=1e-5)


def test_a_network_that_cannot_be_rebuilt_is_refused() -> None:
    class Own(keras.Model):
        def call(self, images: keras.KerasTensor) -> keras.KerasTensor:
            return keras.ops.mean(keras.ops.cast(images, "float32"), axis=(1, 2))

    with pytest.raises(KdflowError, match="expected a functional or sequential network with one"):
        exportable(Own())
