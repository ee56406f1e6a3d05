"""What the kernels of `kdflow/kernels/` save, each against Keras' own, in alternation.

    python benchmarks/kernels.py              the native precision: a minute on two cores
    python benchmarks/kernels.py float32

Times a layer alone, forwards and backwards, with both. Prints the least time of each in
milliseconds, and the median, least and largest ratio of the rounds. Needs TensorFlow.
"""

import argparse
import statistics
from collections.abc import Callable

import kdflow  # noqa: F401 - first, since TensorFlow reads the variables that it sets

# isort: split
import keras
import numpy as np
import tensorflow as tf
from layers import seconds_of, step_of

from kdflow.hardware import Precision, native_precision
from kdflow.kernels import fast_kernels
from kdflow.precision import MIXED

ROUNDS = 15


def convolution(filters: int, size: int = 3) -> Callable[[str], keras.Layer]:
    return lambda dtype: keras.layers.Conv2D(filters, size, padding="same", dtype=dtype)


def activation(name: str) -> Callable[[str], keras.Layer]:
    return lambda dtype: keras.layers.Activation(name, dtype=dtype)


def normalisation(dtype: str) -> keras.Layer:
    return keras.layers.BatchNormalization(dtype=dtype)


# From what is printed to a layer, of a policy, and the shape of its input.
CASES: dict[str, tuple[Callable[[str], keras.Layer], tuple[int, ...]]] = {
    "3x3, 512 channels to 512": (convolution(512), (128, 4, 4, 512)),
    "3x3, 256 channels to 512": (convolution(512), (128, 4, 4, 256)),
    "3x3, 256 channels to 256": (convolution(256), (128, 8, 8, 256)),
    "3x3, 256 channels to 256, large batch": (convolution(256), (512, 8, 8, 256)),
    "5x5, 256 channels to 256": (convolution(256, 5), (128, 8, 8, 256)),
    "batch normalisation, 78 channels": (normalisation, (512, 7, 7, 78)),
    "batch normalisation, 8 channels": (normalisation, (128, 32, 32, 8)),
    "batch normalisation, 64 channels": (normalisation, (512, 16, 16, 64)),
    "GELU": (activation("gelu"), (512, 31, 31, 24)),
    "SiLU": (activation("silu"), (512, 31, 31, 24)),
    "hard SiLU": (activation("hard_silu"), (512, 31, 31, 24)),
}


def measured(
    make: Callable[[str], keras.Layer], shape: tuple[int, ...], precision: Precision
) -> list[tuple[float, float]]:
    """The seconds of Keras and of kdflow, round by round."""
    inputs = keras.Input(shape[1:])
    layer = make(MIXED if precision == "bfloat16" else precision)
    network = keras.Model(inputs, layer(inputs))
    x = tf.constant(np.random.default_rng(0).normal(size=shape), layer.compute_dtype)
    plain = step_of(layer, x, is_above=True)
    plain()  # traces the graph
    with fast_kernels(network):
        fast = step_of(layer, x, is_above=True)
        fast()
    return [(seconds_of(plain), seconds_of(fast)) for _ in range(ROUNDS + 1)][1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("precision", nargs="?", choices=["float32", "bfloat16"])
    precision = parser.parse_args().precision or native_precision()
    print(f"| in {precision} | input | Keras, ms | kdflow, ms | kdflow / Keras |")
    print("|---|---|---|---|---|")
    for name, (make, shape) in CASES.items():
        pairs = measured(make, shape, precision)
        keras_ms, kdflow_ms = (1e3 * min(each) for each in zip(*pairs, strict=True))
        ratios = sorted(fast / plain for plain, fast in pairs)
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        size = " x ".join(map(str, shape))
        print(f"| {name} | {size} | {keras_ms:.1f} | {kdflow_ms:.1f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
