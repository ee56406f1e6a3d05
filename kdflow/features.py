"""Layers with feature maps: the hint and the guided layer, and networks that end at one."""

from collections.abc import Iterator
from itertools import dropwhile, product
from typing import Any

import keras

from kdflow.catalogue.networks import NETWORKS
from kdflow.errors import KdflowError
from kdflow.image_file import ImageShape
from kdflow.naming import scope_name


def feature_maps(network: keras.Model) -> dict[str, ImageShape]:
    """The layers whose output is maps that weights have made, in the network's order, each with its
    shape: (height, width, channels). A layer of a model within the network is named after that
    model too, `backbone/conv1`."""
    return dict(_shapes(network, network.input_shape[1:]))


def _shapes(network: keras.Model, image_shape: ImageShape) -> Iterator[tuple[str, ImageShape]]:
    called = _called(network, image_shape)[1]
    for layer in dropwhile(lambda layer: not layer.weights, network.layers):
        given, made = called[layer.name]
        if _is_model(layer):
            for name, shape in _shapes(layer, given.shape[1:]):
                yield f"{layer.name}/{name}", shape
        if isinstance(made, keras.KerasTensor) and len(made.shape) == 4:
            yield layer.name, made.shape[1:]


def _is_model(layer: keras.Layer) -> bool:
    """Whether it is a model within a network, with one input and one output."""
    ends = getattr(layer, "inputs", None), getattr(layer, "outputs", None)
    return isinstance(layer, keras.Model) and all(each and len(each) == 1 for each in ends)


def _called(
    network: keras.Model, image_shape: ImageShape
) -> tuple[keras.KerasTensor, dict[str, tuple[keras.KerasTensor, keras.KerasTensor]]]:
    """A new input of a network, of images of this shape; what each layer is given then, and what
    it makes of it, by the layer's name."""
    called: dict[str, tuple[keras.KerasTensor, keras.KerasTensor]] = {}

    def call(layer: keras.Layer, *arguments: Any, **named: Any) -> Any:
        made = layer(*arguments, **named)
        given = arguments[0] if arguments else next(iter(named.values()))
        called.setdefault(layer.name, (given, made))
        return made

    images = keras.Input(image_shape)
    keras.models.clone_model(
        keras.Model(network.inputs[0], network.outputs[0]),
        input_tensors=images,
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return images, called


AUTO_DEPTH = 2 / 3  # of a network's layers with maps: where FitNets have theirs


def feature_layers(
    teaching: keras.Model, learning: keras.Model, hint_layer: str, guided_layer: str
) -> tuple[str, str]:
    """The hint layer of the teacher and the guided layer of the student.

    `auto` stands for the layer that the catalogue names. If it names none, the pair of layers is
    chosen that has maps of equal height and width, if there is one, and is nearest to two thirds of
    the depth.

    Raises:
        KdflowError: a layer is not among `feature_maps`.
    """
    taught, learnt = feature_maps(teaching), feature_maps(learning)
    hinting = _candidates(teaching, taught, hint_layer, "hint_layer")
    guided = _candidates(learning, learnt, guided_layer, "guided_layer")

    def unlikeness(pair: tuple[str, str]) -> tuple[bool, float]:
        """Whether the maps differ in size; how far both layers are from the depth wanted."""
        hint, guide = pair
        far = abs(hinting[hint] - AUTO_DEPTH) + abs(guided[guide] - AUTO_DEPTH)
        return taught[hint][:2] != learnt[guide][:2], far

    return min(product(hinting, guided), key=unlikeness)


def _candidates(
    network: keras.Model, maps: dict[str, ImageShape], layer: str, parameter: str
) -> dict[str, float]:
    """The layers that a user may mean by `layer`, each with its depth, 0 to 1."""
    depths = {name: place / len(maps) for place, name in enumerate(maps, start=1)}
    record = NETWORKS.get(network.name)
    if layer == "auto" and record and record.feature_layer in maps:
        layer = str(record.feature_layer)
    if layer == "auto" and maps:
        return depths
    if layer not in maps:
        raise KdflowError(
            f"{parameter}: expected a layer of {network.name} whose output is maps (height, width,"
            f" channels), {', '.join(maps) or 'of which it has none'}; got {layer!r}"
        )
    return {layer: depths[layer]}


def features(network: keras.Model, layer: str) -> keras.Model:
    """`network` up to `layer`, with the same weights: from raw pixels to that layer's output.

    Args:
        layer: a name of `feature_maps`.
    """
    name = scope_name(f"{network.name}_to_{layer}")
    if "/" in layer:
        images, maps = _within(network, layer, network.input_shape[1:])
        part = keras.Model(images, maps, name=name)
    else:
        part = keras.Model(network.input, network.get_layer(layer).output, name=name)
    part.feature_layer = layer
    return part


def _within(
    network: keras.Model, layer: str, image_shape: ImageShape
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """A new input of a network, and what one of its layers, or one of a model within it, makes of
    it."""
    outer, _, inner = layer.partition("/")
    images, called = _called(network, image_shape)
    given, made = called[outer]
    if not inner:
        return images, made
    part = keras.Model(*_within(network.get_layer(outer), inner, given.shape[1:]))
    return images, part(given)


def start_from(network: keras.Model, lower: keras.Model) -> None:
    """Give the lower layers of `network` the weights of `lower`, which `features` made of another
    such network; the layers above keep their own."""
    features(network, lower.feature_layer).set_weights(lower.get_weights())
