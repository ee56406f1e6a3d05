"""The gradient of a convolution's kernel by products of matrices, against Keras and TensorFlow."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from computing import as_array, needs_tensorflow, outputs_and_gradients

from kdflow.kernels import convolution, fast_kernels
from kdflow.lazy import lazy_import
from kdflow.precision import MIXED

tensorflow = lazy_import("tensorflow")

pytestmark = needs_tensorflow


@pytest.fixture(autouse=True)
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "multiplies_by_amx", lambda: True)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [(3, 3), (1, 3), (4, 2), (5, 1)])
def test_the_gradient_is_that_of_tensorflow(size: tuple[int, int], padding: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 6, 7, 4)).astype(np.float32)
    kernel = tensorflow.constant(rng.normal(size=(*size, 4, 5)), "float32")
    with tensorflow.GradientTape() as tape:
        tape.watch(kernel)
        y = tensorflow.nn.conv2d(x, kernel, 1, padding)
    upstream = tensorflow.constant(rng.normal(size=y.shape), "float32")
    expected = as_array(tape.gradient(y, kernel, upstream))
    found = as_array(convolution.kernel_gradient(x, upstream, size, padding))
    assert found.shape == (*size, 4, 5)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def convolved(width: int = 8, channels: int = 256, **options: Any) -> keras.Model:
    maps = keras.Input((6, width, channels))
    given: dict[str, Any] = {"filters": 256, "kernel_size": 3, "dtype": MIXED} | options
    return keras.Model(maps, keras.layers.Conv2D(**given, name="conv")(maps))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_layer_has_the_values_and_the_gradients_of_keras(padding: str, use_bias: bool) -> None:
    network = convolved(
        padding=padding, use_bias=use_bias, bias_initializer="random_normal", activation="relu"
    )
    x = np.random.default_rng(0).normal(size=(3, 6, 8, 256))
    expected = outputs_and_gradients(network, x, training=True)
    with fast_kernels(network):
        found = outputs_and_gradients(network, x, training=True)
    assert found[0] == pytest.approx(expected[0], rel=2**-7, abs=2**-7)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert mine.shape == theirs.shape
        assert np.linalg.norm(mine - theirs) < 2**-8 * np.linalg.norm(theirs)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The sizes of the kernels whose gradient is traced."""
    convolution._convolution.cache_clear()
    sizes: list[Any] = []
    gradient = convolution.kernel_gradient

    def noted(x: Any, upstream: Any, size: Any, padding: str) -> Any:
        sizes.append(size)
        return gradient(x, upstream, size, padding)

    monkeypatch.setattr(convolution, "kernel_gradient", noted)
    yield sizes
    convolution._convolution.cache_clear()


@pytest.mark.parametrize(
    ("options", "is_used"),
    [
        ({}, True),
        ({"width": 9}, False),
        ({"channels": 255}, False),
        ({"filters": 255}, False),
        ({"kernel_size": 1}, False),
        ({"kernel_size": (1, 2)}, True),
        ({"strides": 2}, False),
        ({"dilation_rate": 2}, False),
        ({"groups": 2, "channels": 512, "filters": 512}, False),
        ({"dtype": "float32"}, False),
    ],
)
def test_it_is_used_for_small_maps_of_many_channels(
    options: dict[str, Any], is_used: bool, used: list[Any]
) -> None:
    network = convolved(**options)
    x = np.zeros((1, 6, options.get("width", 8), options.get("channels", 256)))
    with fast_kernels(network):
        outputs_and_gradients(network, x, training=True)
    assert bool(used) == is_used


def test_it_is_not_used_without_amx(monkeypatch: pytest.MonkeyPatch, used: list[Any]) -> None:
    monkeypatch.setattr(convolution, "multiplies_by_amx", lambda: False)
    network = convolved()
    with fast_kernels(network):
        outputs_and_gradients(network, np.zeros((1, 6, 8, 256)), training=True)
    assert not used


class OwnConvolution(keras.layers.Conv2D):
    """A user's own: what its `call` does is not known."""


def test_a_subclass_is_left_to_keras() -> None:
    maps = keras.Input((4, 4, 256))
    network = keras.Model(maps, OwnConvolution(256, 3, dtype=MIXED, name="own")(maps))
    with fast_kernels(network):
        assert "call" not in vars(network.get_layer("own"))


def test_a_trace_is_shared_by_networks_since_tensorflow_never_frees_one() -> None:
    from tensorflow.python.framework import ops

    counts = []
    for filters in (256, 257, 258):
        network = convolved(filters=filters)
        with fast_kernels(network):
            outputs_and_gradients(network, np.zeros((1, 6, 8, 256)), training=True)
        counts.append(len(ops.gradient_registry.list()))
    assert counts[0] == counts[1] == counts[2]
