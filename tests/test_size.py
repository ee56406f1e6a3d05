"""Sizes of networks, by hand-worked cases."""

import keras
import pytest

from kdflow.network import untrained
from kdflow.size import multiply_adds, size_of

L = keras.layers


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 8x8 positions; each of 5 outputs from 3x3x4 inputs
        (L.Conv2D(5, 3, padding="same"), 8 * 8 * 5 * 3 * 3 * 4),
        (L.Conv2D(5, 3, strides=2, padding="same"), 4 * 4 * 5 * 3 * 3 * 4),
        # in 2 groups, each output from half of the inputs
        (L.Conv2D(6, 3, groups=2, padding="same"), 8 * 8 * 6 * 3 * 3 * 2),
        # each of 2x4 outputs from 3x3 of one input
        (L.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), 8 * 8 * 2 * 4 * 3 * 3),
        # 4 maps from 3x3 of one input each, then each of 5 outputs from these 4
        (L.SeparableConv2D(5, 3, padding="same"), 8 * 8 * (4 * 3 * 3 + 5 * 4)),
        # each of the 8x8x4 inputs is multiplied into 3x3x5 outputs
        (L.Conv2DTranspose(5, 3, strides=2, padding="same"), 8 * 8 * 4 * 3 * 3 * 5),
        (L.Dense(5), 8 * 8 * 4 * 5),
        (L.BatchNormalization(), 0),
    ],
    ids=lambda it: type(it).__name__,
)
def test_the_multiply_adds_of_a_layer_are_those_of_its_shapes(
    layer: keras.Layer, expected: int
) -> None:
    images = keras.Input((8, 8, 4))
    assert multiply_adds(keras.Model(images, layer(images))) == expected


def test_the_multiply_adds_of_a_network_are_the_sum_of_its_layers() -> None:
    network = untrained("pupil", (32, 32, 3), 10)
    convolution = 32 * 32 * (3 * 3 * 3) * 16
    assert multiply_adds(network) == convolution + 16 * 16 * 16 * 32 + 32 * 10


def test_the_layers_of_a_network_within_a_network_count() -> None:
    images = keras.Input((8, 8, 4))
    inner = keras.Model(images, L.Conv2D(5, 1)(images))
    outer = keras.Input((8, 8, 4))
    assert multiply_adds(keras.Model(outer, inner(outer))) == 8 * 8 * 4 * 5


def test_a_size_has_all_weights_with_their_own_types() -> None:
    images = keras.Input((3,))
    half = L.Dense(2, dtype=keras.DTypePolicy("float16"))(images)  # 3*2 + 2 numbers of 2 bytes
    size = size_of(keras.Model(images, L.Dense(4, dtype="float32")(half)))  # 2*4 + 4 of 4 bytes
    assert size == (8 + 12, 6 + 8, 16 + 48)
    assert str(size) == "20 parameters, 0.0 million multiply-adds per image, 0.00 MB"
