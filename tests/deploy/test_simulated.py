"""A network that computes as its int8 file will, beside the file itself."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import needs_deploy

from kdflow.dataset import Dataset, Images
from kdflow.deploy import litert
from kdflow.deploy.pixels import exportable
from kdflow.deploy.simulated import simulated
from kdflow.network import build

L = keras.layers


def rms(differences: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(differences))))


@needs_deploy
@pytest.mark.slow
# without normalisation, with it, and with pools before it and activations that are not fused
@pytest.mark.parametrize("name", ["student", "mini", "whitened"])
def test_it_answers_as_the_file_does(name: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 16, 16, 3), np.uint8)
    network = exportable(
        build(name, Images(pixels, np.arange(100) % 10, np.arange(100)), 10, seed=0)
    )
    images = pixels.astype(np.float32)
    plain, rounded = tmp_path / "float32.tflite", tmp_path / "int8.tflite"
    litert.write_float32(network, plain)
    litert.write_int8(plain, rounded, images, weight_bits=4)
    of_file = litert.LiteRTFile(rounded).logits(images)
    lost_by_rounding = of_file - network.predict(images, verbose=0)
    differing = of_file - simulated(network, 4).predict(images, verbose=0)
    assert rms(lost_by_rounding) > 0.02
    assert rms(differing) < rms(lost_by_rounding) / 4


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_rounded_to_as_many_steps_for_each_channel(bits: int) -> None:
    kernel = np.random.default_rng(1).normal(0, [0.1, 1, 10], (5, 3)).astype(np.float32)
    numbers = keras.Input((5,))
    network = keras.Model(numbers, L.Dense(3, use_bias=False)(numbers))
    network.set_weights([kernel])
    largest_step = np.abs(kernel).max(axis=0) / (2 ** (bits - 1) - 1)
    expected = np.round(kernel / largest_step) * largest_step
    # each row of the identity picks a row of weights; outputs have 255 steps from low to high
    answers = simulated(network, bits).predict(np.eye(5, dtype=np.float32), verbose=0)
    assert np.abs(answers - expected).max() <= np.ptp(expected) / 255 / 2 + 1e-6


def test_the_channels_of_a_depthwise_convolution_are_its_inputs() -> None:
    kernel = np.array([0.07, -9], np.float32).reshape(1, 1, 2, 1)
    images = keras.Input((1, 1, 2))
    network = keras.Model(images, L.DepthwiseConv2D(1, use_bias=False)(images))
    network.set_weights([kernel])
    answer = simulated(network, 4).predict(np.ones((1, 1, 1, 2), np.float32), verbose=0)
    # a channel's only weight is its largest, so it is kept; by the other's it would become 0
    assert answer.ravel() == pytest.approx([0.07, -9], abs=9.07 / 255 / 2 + 1e-6)


def test_frozen_layers_and_those_of_networks_within_are_rounded_too() -> None:
    kernel = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    inner, outer = keras.Input((4,)), keras.Input((4,))
    part = keras.Model(inner, L.Dense(3, use_bias=False, trainable=False, name="dense")(inner))
    network = keras.Model(outer, L.Identity()(part(outer)))
    network.set_weights([kernel])
    answers = simulated(network, 4).predict(np.eye(4, dtype=np.float32), verbose=0)
    step = np.abs(kernel).max(axis=0) / 7
    assert answers == pytest.approx(np.round(kernel / step) * step, abs=float(np.ptp(kernel)) / 200)


def test_a_sequential_network_within_and_several_outputs_are_rounded_too() -> None:
    kernel = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    numbers = keras.Input((4,))
    part = keras.Sequential([keras.Input((4,)), L.Dense(3, use_bias=False)])
    outputs = keras.ops.split(part(numbers), 3, axis=-1)
    network = keras.Model(numbers, L.Concatenate()(outputs[::-1]))
    network.set_weights([kernel])
    answers = simulated(network, 4).predict(np.eye(4, dtype=np.float32), verbose=0)
    step = np.abs(kernel).max(axis=0) / 7
    expected = (np.round(kernel / step) * step)[:, ::-1]
    assert answers == pytest.approx(expected, abs=float(np.ptp(kernel)) / 100)


def test_a_layer_that_is_used_twice_is_rounded_each_time() -> None:
    kernel = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    numbers = keras.Input((4,))
    twice = L.Dense(4, use_bias=False)
    network = keras.Model(numbers, twice(twice(numbers)))
    network.set_weights([kernel])
    step = np.abs(kernel).max(axis=0) / 7
    rounded = np.round(kernel / step) * step
    answers = simulated(network, 4).predict(np.eye(4, dtype=np.float32), verbose=0)
    assert answers == pytest.approx(rounded @ rounded, abs=float(np.ptp(kernel @ kernel)) / 40)


def test_to_train_it_trains_the_network(tiny: Dataset, small_network: keras.Model) -> None:
    network = exportable(small_network)
    before = network.get_weights()
    learner = simulated(network, 8)
    learner.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    learner.train_on_batch(tiny.x_train, tiny.y_train)
    assert len(learner.trainable_variables) == len(network.trainable_variables)
    moved = [np.abs(a - b).max() for a, b in zip(before, network.get_weights(), strict=True)]
    assert min(moved) > 0


def test_a_layer_that_is_called_with_two_inputs_is_rounded_too() -> None:
    words = keras.Input((5, 4))
    attending = keras.Model(words, L.MultiHeadAttention(2, 4)(words, words))
    given = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    found = np.asarray(simulated(attending, 8)(given))
    expected = np.asarray(attending(given))
    assert found == pytest.approx(expected, abs=0.05)
    assert not np.allclose(found, expected, atol=1e-7)
