"""A Keras model that was not made for kdflow, as kdflow's networks are: from raw pixels to logits,
with one input and one output, and without code of its own."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from kdflow.errors import KdflowError, ParameterError, reason
from kdflow.lazy import lazy_import
from kdflow.naming import scope_name

if TYPE_CHECKING:
    import keras

    from kdflow.image_file import ImageShape
else:
    keras = lazy_import("keras")

PixelRange = Literal["0..255", "0..1", "-1..1", "imagenet"]
PIXEL_RANGES: tuple[PixelRange, ...] = get_args(PixelRange)

# Mean and standard deviation of ImageNet's red, green and blue, of pixels from 0 to 1, as
# torchvision and most published weights have them.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SIGMOIDS = ("sigmoid", "hard_sigmoid", "log_sigmoid", "sparse_sigmoid")  # of keras.activations
UNNAMED = re.compile(r"(functional|sequential|model)(_\d+)?")  # as Keras names a model by itself


def is_unnamed(model: keras.Model) -> bool:
    """Whether the model has a name that Keras made up."""
    return bool(UNNAMED.fullmatch(model.name))


def functional(model: object, image_shape: ImageShape, what: str) -> keras.Model:
    """The same model with one input of exactly these images and one output.

    Args:
        what: where it is from, for messages.

    Raises:
        KdflowError: it is not a functional or sequential model, has several inputs or outputs, or
            takes other images.
    """
    if not isinstance(model, keras.Model):
        raise KdflowError(f"expected a Keras model from {what}, got a {type(model).__name__}")
    if isinstance(model, keras.Sequential) and not model.built:
        try:
            model.build((None, *image_shape))
        except Exception as error:  # layers of any kind
            raise _other_images(what, image_shape, reason(error)) from error
    inputs, outputs = (getattr(model, name, None) for name in ("inputs", "outputs"))
    if not inputs or not outputs:
        raise KdflowError(
            f"expected a functional or sequential Keras model from {what}, got the subclass"
            f" {type(model).__name__}, which cannot be loaded without its code"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise KdflowError(
            f"expected one input and one output in the network of {what}, got {len(inputs)} and"
            f" {len(outputs)}"
        )
    taken = tuple(inputs[0].shape[1:])
    if len(taken) != 3 or any(
        size not in (None, ours) for size, ours in zip(taken, image_shape, strict=True)
    ):
        raise _other_images(what, image_shape, f"one that takes {taken}")
    if None in taken:
        fixed = keras.Input(image_shape, dtype=inputs[0].dtype, name="images")
        return _on(fixed, fixed, _as_functional(model))
    return _as_functional(model)


def _other_images(what: str, image_shape: ImageShape, got: str) -> KdflowError:
    return KdflowError(
        f"expected a network that takes images of shape {image_shape} from {what}, got {got}"
    )


def _as_functional(model: keras.Model) -> keras.Model:
    """With a single tensor as input, where the model may have a list of one, and a name that every
    backend accepts."""
    return keras.Model(model.inputs[0], model.outputs[0], name=scope_name(model.name))


def without_softmax(model: keras.Model) -> tuple[keras.Model, bool]:
    """The model without the softmax that it ends in, as a layer or as the last layer's activation,
    and whether there was one. The weights are shared or copied.

    Args:
        model: functional, with one input and one output.
    """
    return _without_activation(model, keras.activations.softmax)


def without_sigmoid(model: keras.Model) -> tuple[keras.Model, bool]:
    """The same as `without_softmax`, of a sigmoid."""
    return _without_activation(model, keras.activations.sigmoid)


def with_two_logits(model: keras.Model) -> keras.Model:
    """From a model of two classes that gives one logit z to the logits 0 and z, whose softmax is
    1 - sigmoid(z) and sigmoid(z).

    Args:
        model: functional, with one input and an output of shape (images, 1).
    """
    # without a layer with weights, so that the last one is still the model's own
    logits = keras.ops.pad(keras.ops.cast(model.outputs[0], "float32"), ((0, 0), (1, 0)))
    return keras.Model(model.inputs[0], logits, name=model.name)


def _without_activation(
    model: keras.Model, activation: Callable[..., Any]
) -> tuple[keras.Model, bool]:
    last = model.operations[-1]
    own = getattr(last, "activation", None)
    if type(last).__name__ == activation.__name__.title() or (
        isinstance(last, keras.layers.Activation) and own is activation
    ):
        return keras.Model(model.inputs[0], last.input, name=model.name), True
    if own is activation:
        linear = type(last).from_config(last.get_config() | {"activation": "linear"})
        logits = linear(last.input)
        linear.set_weights(last.get_weights())
        return keras.Model(model.inputs[0], logits, name=model.name), True
    if isinstance(last, keras.Model) and len(last.outputs) == 1:
        inner, removed = _without_activation(_as_functional(last), activation)
        if removed:
            return _with_last(model, inner), True
    return model, False


def ends_in_sigmoid(model: keras.Model) -> bool:
    """Whether the last layer's activation is a sigmoid, or another function of its kind."""
    kinds = (getattr(keras.activations, name) for name in SIGMOIDS)
    return any(_without_activation(model, kind)[1] for kind in kinds)


def _with_last(model: keras.Model, replacement: keras.Model) -> keras.Model:
    """A copy of the model that ends in another network with the same weights."""

    def copied(layer: keras.Layer) -> keras.Layer:
        if layer is model.operations[-1]:
            return replacement
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=copied)
    copy_weights(model, copy)
    return copy


def from_pixels(model: keras.Model, pixels: PixelRange) -> keras.Model:
    """The model with a layer in front that turns pixels 0..255 into what it expects.

    Args:
        pixels: what the model expects; imagenet is (pixel / 255 - mean) / deviation for each of
            red, green and blue.

    Raises:
        KdflowError: imagenet, and the images do not have three channels.
    """
    if pixels == "0..255":
        return model
    shape = tuple(model.inputs[0].shape[1:])
    if pixels == "imagenet" and shape[-1] != 3:
        raise ParameterError(f"pixels: expected images of 3 channels for imagenet, got {shape[-1]}")
    scale, offset = _scale_and_offset(pixels)
    images = keras.Input(shape, dtype="uint8", name="images")
    expected = keras.layers.Rescaling(scale, offset, name="expected_pixels")(images)
    return _on(images, expected, model)


def _scale_and_offset(pixels: PixelRange) -> tuple[float | list[float], float | list[float]]:
    if pixels == "0..1":
        return 1 / 255, 0.0
    if pixels == "-1..1":
        return 1 / 127.5, -1.0
    statistics = list(zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True))
    return [1 / (255 * deviation) for _, deviation in statistics], [
        -mean / deviation for mean, deviation in statistics
    ]


def _on(images: keras.KerasTensor, x: keras.KerasTensor, model: keras.Model) -> keras.Model:
    """The same layers on `x`, which follows from `images`. They are copies: a layer that is called
    twice has no single output."""
    given = keras.tree.map_structure(lambda _: x, model.input)
    outputs = []

    def called(layer: keras.Layer, *inputs: Any, **options: Any) -> Any:
        outputs.append(layer(*inputs, **options))
        return outputs[-1]

    copy = keras.models.clone_model(model, input_tensors=given, call_function=called)
    copy_weights(model, copy)
    return keras.Model(images, outputs[-1], name=model.name)


def check_needs_no_code(model: keras.Model, what: str) -> None:
    """Refuse a model that cannot be loaded without its own code.

    Raises:
        KdflowError: it has layers or functions that are not Keras' own, or a lambda.
    """
    registered = keras.saving.get_custom_objects()
    kept = dict(registered)
    registered.clear()
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    except Exception as error:  # any of its layers can fail
        raise KdflowError(
            f"expected a network of Keras' own layers from {what}, got one that cannot be loaded"
            f" without its code: {textwrap.shorten(reason(error), 200)}"
        ) from error
    finally:
        registered.update(kept)


def reinitialised(model: keras.Model, seed: int) -> keras.Model:
    """The same architecture whose weights, and dropout masks, follow from `seed`. All layers learn,
    also those that were frozen with trained weights; what a `Normalization` layer has adapted to is
    kept.

    Args:
        model: functional.
    """
    config = _initial(keras.saving.serialize_keras_object(model))
    keras.utils.set_random_seed(seed)
    fresh: keras.Model = keras.saving.deserialize_keras_object(config)
    for layer, from_file in zip(adapted_layers(fresh), adapted_layers(model), strict=True):
        copy_weights(from_file, layer)
    return fresh


def copy_weights(model: keras.Layer, copy: keras.Layer) -> None:
    """Give a copy of a model, or of a layer, its weights. Unlike `set_weights`, this reaches what
    `Normalization` computes with: constants that Keras derives from its weights."""
    copy.set_weights(model.get_weights())
    for layer in adapted_layers(copy):
        layer.finalize_state()


def adapted_layers(model: keras.Layer) -> list[keras.layers.Normalization]:
    """The `Normalization` layers of a model, also those of the models in it."""
    return [it for it in model._flatten_layers() if isinstance(it, keras.layers.Normalization)]


def _initial(config: object) -> object:
    """A config without seeds of its own, whose layers all learn."""
    if isinstance(config, dict):
        changes = {"seed": None, "trainable": True}
        return {name: changes.get(name, _initial(value)) for name, value in config.items()}
    if isinstance(config, list):
        return [_initial(value) for value in config]
    return config


def is_saved_model(path: str) -> bool:
    """Whether `path` is a folder in TensorFlow's SavedModel format."""
    return os.path.isfile(f"{path}/saved_model.pb")  # noqa: PTH113 (a Path raises at a long name)
