"""Where the time of an epoch goes, layer by layer, against the machine's own limit.

    python benchmarks/layers.py               `student`
    python benchmarks/layers.py whitened fast

In turn, for several rounds: each layer alone, forwards and backwards, on a batch of its network's
recipe; and an epoch of kdflow's distillation, of 100 such batches or fewer. Prints the least time
of each, in milliseconds a batch, and the multiplications that it makes in a second as a share of
those of a large matrix product of the same type. Needs TensorFlow.
"""

import argparse
import time
from collections.abc import Callable

import kdflow  # noqa: F401 - first, since TensorFlow reads the variables that it sets

# isort: split
import keras
import numpy as np
import tensorflow as tf
from epoch import Data, distillation

from kdflow import network
from kdflow.catalogue.networks import NETWORKS
from kdflow.hardware import native_precision
from kdflow.kernels import fast_kernels
from kdflow.precision import computing_in
from kdflow.size import multiply_adds
from kdflow.training.speed import multiplications_per_second

IMAGES, ROUNDS = {"student": 6_400, "whitened": 2_560, "fast": 1_024, "vgg": 512}, 10


def step_of(layer: keras.Layer, inputs: tf.Tensor, *, is_above: bool) -> Callable[[], object]:
    """A function that runs a layer forwards and backwards.

    Args:
        is_above: whether a layer below it learns, so that the gradient of its input is needed.
    """

    def step() -> object:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = tf.cast(layer(inputs, training=True), tf.float32)
        below = [inputs] if is_above else []
        return output, tape.gradient(output, [*layer.trainable_variables, *below])

    traced: Callable[[], object] = tf.function(step)
    return traced


def seconds_of(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time of an epoch goes.")
    parser.add_argument("networks", nargs="*", default=["student"], help=", ".join(IMAGES))
    limit = multiplications_per_second(native_precision())
    print(f"a matrix product: {limit / 1e9:.0f} billion multiplications a second")
    for name in parser.parse_args().networks:
        profile(name, limit)


def profile(name: str, limit: float) -> None:
    """Print the table of a network.

    Args:
        limit: multiplications a second.
    """
    rng, batch_size = np.random.default_rng(0), NETWORKS[name].recipe.batch_size
    data = Data.random(IMAGES[name], validated=batch_size)
    model = network.build(name, data.train, 10, seed=0)
    steps, multiplications = {}, {}
    with computing_in(native_precision(), model), fast_kernels(model):
        is_above = False
        for layer in model.layers[1:]:
            shown = rng.integers(0, 256, (batch_size, *layer.input.shape[1:]))
            inputs = tf.constant(shown, layer.input.dtype)
            steps[layer.name] = step_of(layer, inputs, is_above=is_above)
            steps[layer.name]()  # traces the graph
            passes = 1 + bool(layer.trainable_weights) + is_above
            once = multiply_adds(keras.Model(layer.input, layer.output))
            multiplications[layer.name] = passes * once
            is_above = is_above or bool(layer.trainable_weights)
    epoch = distillation(name, data, 1, ROUNDS)
    least = dict.fromkeys(steps, float("inf"))
    whole = float("inf")
    epoch()
    for _ in range(ROUNDS):
        least = {layer: min(least[layer], seconds_of(step)) for layer, step in steps.items()}
        whole = min(whole, epoch() * batch_size / data.count)
    print(f"\n{name} in {native_precision()}, batches of {batch_size}\n")
    print("| layer | ms | share | of the matrix product |\n|---|---|---|---|")
    for layer, seconds in least.items():
        share = multiplications[layer] * batch_size / seconds / limit
        print(f"| `{layer}` | {1e3 * seconds:.2f} | {seconds / whole:.0%} | {share:.0%} |")
    rest = whole - sum(least.values())
    print(f"| all else | {1e3 * rest:.2f} | {rest / whole:.0%} | |")
    share = sum(multiplications.values()) * batch_size / whole / limit
    print(f"| whole epoch, per batch | {1e3 * whole:.2f} | 100% | {share:.0%} |")


if __name__ == "__main__":
    main()
