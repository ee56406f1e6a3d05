"""A network as it is exported: from float32 pixels to logits."""

import keras

from kdflow.adapt import copy_weights
from kdflow.errors import KdflowError, reason

INPUT = "images"


def exportable(network: keras.Model, *, erf_gelu: bool = False) -> keras.Model:
    """The same network with the same weights from float32 pixels 0 to 255, computed in float32.

    On uint8 pixels a file would start with a conversion that not every runtime has.

    Args:
        network: functional or sequential, with one input.
        erf_gelu: write GELU with the error function, for formats that have no GELU.

    Raises:
        KdflowError: it is built in another way.
    """
    if len(getattr(network, "inputs", None) or ()) != 1:
        raise KdflowError(
            "expected a functional or sequential network with one input, which can be rebuilt on"
            f" float32 pixels, got {network.name}, a {type(network).__name__} that is neither"
        )

    def copied(operation: keras.Operation) -> keras.Operation:
        if not isinstance(operation, keras.Layer):
            return operation  # without weights or a dtype of its own
        config = operation.get_config() | {"dtype": "float32"}
        if erf_gelu and getattr(operation, "activation", None) is keras.activations.gelu:
            config["activation"] = _gelu
        return type(operation).from_config(config)

    try:
        plain = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
        images = keras.Input(plain.input_shape[1:], dtype="float32", name=INPUT)
        made = keras.models.clone_model(
            plain, input_tensors=images, clone_function=copied, recursive=True
        )
        copy_weights(plain, made)
    except Exception as error:  # a layer of another package can fail in any way
        raise KdflowError(
            f"expected a network whose layers can be rebuilt from their settings, got"
            f" {network.name}: {reason(error)}"
        ) from error
    return made


def _gelu(x: keras.KerasTensor) -> keras.KerasTensor:
    return 0.5 * x * (1 + keras.ops.erf(x * 0.5**0.5))
