"""Batches for Keras.

On TensorFlow they are pipelines without autotuning. With it, TensorFlow 2.21 sometimes waits at the
end for the tuning thread, which can sleep for up to a minute: the longer the pipeline has run, the
longer.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kdflow.lazy import lazy_import

tensorflow = lazy_import("tensorflow")  # stands here because Keras makes no such pipelines

_raised: list[Exception] = []  # in TensorFlow's thread, by what makes a batch


def in_batches(
    images: np.ndarray, targets: dict[str, np.ndarray] | None = None, *, batch_size: int
) -> dict[str, Any]:
    """What `fit` or `predict` takes to see these images in their order.

    Given arrays on TensorFlow, Keras traces three functions of a pipeline in each call. That takes
    a tenth of a second, as long as an epoch of a small data set; this pipeline has no functions.

    Args:
        images: (n, height, width, channels).
        targets: by name, (n, ...); none to predict.
    """
    if keras.backend.backend() == "tensorflow":
        arrays = images if targets is None else (images, targets)
        batches = tensorflow.data.Dataset.from_tensor_slices(arrays).batch(batch_size)
        return {"x": _not_tuned(batches)}
    return {"x": images, "batch_size": batch_size} | ({} if targets is None else {"y": targets})


def one_at_a_time(batches: keras.utils.PyDataset) -> dict[str, Any]:
    """What `fit` takes to see these batches in their order. Each is made when it is needed."""
    if keras.backend.backend() != "tensorflow":
        return {"x": batches}
    count = len(batches)
    types = keras.tree.map_structure(_any_number_of, batches[0])

    def each() -> Iterator[Any]:
        for index in range(count):
            try:
                yield batches[index]
            except Exception as error:
                _raised.append(error)
                raise

    made = tensorflow.data.Dataset.from_generator(each, output_signature=types)
    counted = made.apply(tensorflow.data.experimental.assert_cardinality(count))
    return {"x": _not_tuned(counted.prefetch(1))}


@contextlib.contextmanager
def errors_of_batches() -> Iterator[None]:
    """If a batch of `one_at_a_time` cannot be made inside the block, the error itself is raised:
    TensorFlow raises another one, of its own."""
    _raised.clear()
    try:
        yield
    except Exception as error:
        if _raised:
            raise _raised.pop() from error
        raise


def _any_number_of(array: np.ndarray) -> Any:
    """The type of a batch like this one, of any number of images."""
    return tensorflow.TensorSpec((None, *array.shape[1:]), array.dtype)


def _not_tuned(batches: Any) -> Any:
    options = tensorflow.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
