import keras
import pytest

from kdflow.network import untrained
from kdflow.network_cost import multiply_adds


def network(*layers: keras.Layer, shape: tuple[int, ...] = (6, 8, 3)) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *layers])


def test_they_are_those_of_each_kernel_at_each_position() -> None:
    pupil = untrained("pupil", (32, 32, 3), 10)
    convolution = 32 * 32 * (3 * 3 * 3) * 16
    assert multiply_adds(pupil) == convolution + 16 * 16 * 16 * 32 + 32 * 10


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # 3 rows of 4 positions are left; each output channel sums over 3x3 pixels of 3 channels
        (keras.layers.Conv2D(5, 3, strides=2, padding="same"), 3 * 4 * (3 * 3 * 3) * 5),
        # each of the 6 output channels sees one of the 3 groups, of one channel
        (keras.layers.Conv2D(6, 3, padding="same", groups=3), 6 * 8 * (3 * 3 * 1) * 6),
        # each of 3 channels meets 2 kernels of its own
        (keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), 6 * 8 * 9 * 3 * 2),
        # the same, and then from 6 channels to 5
        (
            keras.layers.SeparableConv2D(5, 3, depth_multiplier=2, padding="same"),
            6 * 8 * (9 * 3 * 2 + 6 * 5),
        ),
        # each input pixel is spread over 3x3 output pixels of 5 channels
        (keras.layers.Conv2DTranspose(5, 3, strides=2, padding="same"), 6 * 8 * (3 * 3 * 3) * 5),
        # at each of the 6x8 positions
        (keras.layers.Dense(7), 6 * 8 * 3 * 7),
        (keras.layers.BatchNormalization(), 0),
        (keras.layers.MaxPooling2D(2), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_layer_by_hand(layer: keras.Layer, expected: int) -> None:
    assert multiply_adds(network(layer)) == expected


def test_a_network_within_a_network_counts() -> None:
    inner = network(keras.layers.Conv2D(4, 1), keras.layers.Flatten())
    outer = network(inner, keras.layers.Dense(2))
    assert multiply_adds(outer) == 6 * 8 * 3 * 4 + (6 * 8 * 4) * 2
