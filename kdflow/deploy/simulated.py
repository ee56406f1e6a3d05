"""A network that computes as its int8 file will, so that training can adapt its weights to that
(Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 3)."""

from typing import Any

import keras
from keras import ops

from kdflow.deploy.litert import ACTIVATION_BITS

# Where channels are not a kernel's last axis.
CHANNEL_AXIS = {"DepthwiseConv2D": 2, "Conv2DTranspose": 2, "depthwise_kernel": 2}
# A file computes these functions together with the operation before them.
FUSED_ACTIVATIONS = (keras.activations.linear, keras.activations.relu, keras.activations.relu6)


def simulated(network: keras.Model, weight_bits: int) -> keras.Model:
    """The same network with rounded weights, and rounded outputs of all layers. It shares the
    layers of `network`: to train one is to train the other. The gradient passes through rounding as
    if it were not there. Of a layer with an activation of its own, a file may also round what the
    activation takes, and this network does not.

    Args:
        network: functional, as `pixels.exportable` makes it.
        weight_bits: of each weight; activations have 8 bits.
    """
    makers = {id(layer.output): layer for layer in network.layers}
    rounded_later = {
        maker.name
        for layer in network.layers
        if (maker := makers.get(id(layer.input))) and _is_fused(layer, maker)
    }

    def of_layer(layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, keras.Sequential):  # which Keras clones in another way
            layer = keras.Model(layer.inputs, layer.outputs, name=layer.name)
        if isinstance(layer, keras.Model):
            return simulated(layer, weight_bits)
        return _RoundedWeights(layer, weight_bits) if _kernels(layer) else layer

    def called(layer: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        made = layer(*args, **kwargs)
        name = layer.layer.name if isinstance(layer, _RoundedWeights) else layer.name
        if name in rounded_later:
            return made
        return keras.tree.map_structure(lambda output: _RoundedOutput()(output), made)

    return keras.models.clone_model(network, clone_function=of_layer, call_function=called)


def _is_fused(layer: keras.Operation, before: keras.Operation) -> bool:
    """Whether a file computes the layer together with the one before, without rounding between."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return bool(_kernels(before))
    if isinstance(layer, keras.layers.ReLU):
        is_plain = not layer.negative_slope and not layer.threshold
        return is_plain and layer.max_value in (None, 6)
    return isinstance(layer, keras.layers.Activation) and layer.activation in FUSED_ACTIVATIONS


def _kernels(layer: keras.Operation) -> list[str]:
    """The names of the layer's weights that a file stores rounded."""
    weights = layer.weights if isinstance(layer, keras.Layer) else []
    return [each.name for each in weights if each.name.endswith("kernel") and len(each.shape) > 1]


class _RoundedWeights(keras.Layer):
    """A layer whose kernels are rounded before each use, symmetrically for each channel."""

    def __init__(self, layer: keras.Layer, bits: int) -> None:
        super().__init__(name=f"rounded_{layer.name}")
        self.layer, self.bits = layer, bits

    @property
    def kernel(self) -> Any:
        """The layer's kernel, by which `size` counts its work."""
        return self.layer.kernel

    def call(self, *inputs, **options):  # type: ignore[no-untyped-def]
        kernels = _kernels(self.layer)
        trainable, others = (
            [self._rounded(each) if each.name in kernels else each for each in variables]
            for variables in (self.layer.trainable_variables, self.layer.non_trainable_variables)
        )
        outputs, _ = self.layer.stateless_call(trainable, others, *inputs, **options)
        return outputs

    def compute_output_spec(self, *inputs, **options):  # type: ignore[no-untyped-def]
        return self.layer.compute_output_spec(*inputs, **options)

    def _rounded(self, kernel: keras.Variable) -> Any:
        default = CHANNEL_AXIS.get(kernel.name, len(kernel.shape) - 1)
        axis = CHANNEL_AXIS.get(type(self.layer).__name__, default)
        others = [each for each in range(len(kernel.shape)) if each != axis]
        largest = ops.stop_gradient(ops.max(ops.abs(kernel), axis=others))
        largest = ops.maximum(largest, keras.config.epsilon())
        return keras.quantizers.fake_quant_with_min_max_vars(
            kernel, -largest, largest, num_bits=self.bits, narrow_range=True, axis=axis
        )


class _RoundedOutput(keras.Layer):
    """Rounds activations to a range that holds 0 and those of the batch."""

    def call(self, inputs):  # type: ignore[no-untyped-def]
        seen = ops.stop_gradient(inputs)
        low = ops.minimum(ops.min(seen), 0.0)
        high = ops.maximum(ops.max(seen), keras.config.epsilon())
        return keras.quantizers.fake_quant_with_min_max_vars(
            inputs, low, high, num_bits=ACTIVATION_BITS
        )

    def compute_output_spec(self, inputs):  # type: ignore[no-untyped-def]
        return keras.KerasTensor(inputs.shape, inputs.dtype)
