"""Arrays, as the batches in which Keras takes them."""

from typing import Any

import keras
import numpy as np

from kdflow.late import late

tensorflow = late("tensorflow")  # stands here because Keras makes no such pipeline from arrays


def in_batches(
    images: np.ndarray, targets: dict[str, np.ndarray] | None = None, *, batch_size: int
) -> dict[str, Any]:
    """What `fit` or `predict` takes to see these images in their order.

    Given arrays on TensorFlow, Keras traces three functions of a pipeline in each call. That takes
    a tenth of a second, as long as an epoch of a small data set; this pipeline has no functions. It
    is not tuned while it runs either: TensorFlow 2.21 now and then waits at the end for the thread
    that tunes, which sleeps for up to a minute, the longer the pipeline has run.

    Args:
        images: (n, height, width, channels).
        targets: by name, (n, ...); none to predict.
    """
    if keras.backend.backend() == "tensorflow":
        arrays = images if targets is None else (images, targets)
        options = tensorflow.data.Options()
        options.autotune.enabled = False
        batches = tensorflow.data.Dataset.from_tensor_slices(arrays).batch(batch_size)
        return {"x": batches.with_options(options)}
    return {"x": images, "batch_size": batch_size} | ({} if targets is None else {"y": targets})
