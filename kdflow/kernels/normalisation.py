"""Batch normalisation of maps by TensorFlow's fused kernel."""

from __future__ import annotations

from typing import Any

import keras

from kdflow.hardware import has_onednn
from kdflow.lazy import lazy_import

tensorflow = lazy_import("tensorflow")  # stands here because Keras does not use this kernel

# In bfloat16 oneDNN takes several times as long if the channels are no multiple of 16. To pad them
# costs more than that in float32, and with fewer channels than 8.
VECTOR, FEWEST_PADDED = 16, 8


def supports(layer: keras.layers.BatchNormalization) -> bool:
    """Whether a layer is batch normalisation as TensorFlow's fused kernel defines it."""
    return (
        layer.input_spec.ndim == 4
        and layer.axis in (-1, 3)
        and not layer.renorm
        and not layer.synchronized
    )


def call(
    layer: keras.layers.BatchNormalization, inputs: Any, training: Any = None, mask: Any = None
) -> Any:
    """What `layer.call` does, by the fused kernel where it can."""
    if mask is not None or inputs.dtype != layer.compute_dtype:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    uses_batch_statistics = bool(training and layer.trainable)
    ones, zeros = tensorflow.ones_like(layer.moving_mean), tensorflow.zeros_like(layer.moving_mean)
    channels = layer.moving_mean.shape[0]
    is_padded = layer.compute_dtype == "bfloat16" and channels >= FEWEST_PADDED and has_onednn()
    added = -channels % VECTOR if is_padded else 0  # channels, which are cut off again

    def widened(vector: Any) -> Any:
        return tensorflow.pad(vector, [[0, added]])

    moving = (widened(layer.moving_mean.value), widened(layer.moving_variance.value))
    y, mean, variance, *_ = tensorflow.raw_ops.FusedBatchNormV3(
        x=tensorflow.pad(inputs, [[0, 0], [0, 0], [0, 0], [0, added]]) if added else inputs,
        scale=widened(layer.gamma.value if layer.scale else ones),
        offset=widened(layer.beta.value if layer.center else zeros),
        mean=zeros[:0] if uses_batch_statistics else moving[0],
        variance=zeros[:0] if uses_batch_statistics else moving[1],
        epsilon=layer.epsilon,
        is_training=uses_batch_statistics,
    )
    if uses_batch_statistics:
        # the kernel returns the unbiased variance; Keras averages the biased one
        count = tensorflow.cast(tensorflow.size(inputs) / channels, "float32")
        biased = variance * tensorflow.maximum(count - 1, 1) / count
        for each, of_batch in ((layer.moving_mean, mean), (layer.moving_variance, biased)):
            each.assign(each.value * layer.momentum + of_batch[:channels] * (1 - layer.momentum))
    # not y[..., :channels], whose gradient takes as long as all else here
    return tensorflow.slice(y, [0, 0, 0, 0], [-1, -1, -1, channels]) if added else y
