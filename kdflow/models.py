"""The networks: each builder takes an image shape and a number of classes and returns a Keras model
from raw uint8 pixels to logits.

Pools round up (`padding="same"`), so any image size fits; on 32x32 each map is the notebook's.
"""

import hashlib
from collections.abc import Callable
from itertools import dropwhile

import keras
import numpy as np
from keras import layers

from kdflow.errors import KdflowError

DROPOUT_LAYER = "dropout"  # before the last layer
WHITENING_LAYER = "whitening"
WHITENING_PATCHES = 4_805_000  # of 5,000 images of CIFAR-10; enough to determine 12 directions
WHITENING_EPSILON = 5e-4  # added to the variances, so that the weakest directions are not noise

WITHOUT_DROPOUT = {"fast", "fitnet", "dense"}  # before the last layer
SMALLEST_SIDE = {"fast": 2}  # in pixels, for its 2x2 patches; 1 for the other networks

ImageShape = tuple[int, int, int]
Builder = Callable[[ImageShape, int], keras.Model]


def vgg(image_shape: ImageShape, classes: int) -> keras.Model:
    """The notebook's teacher, after VGG (Simonyan and Zisserman 2015): 12,372,746 parameters on
    32x32x3 images of 10 classes."""
    images, x = _pixels(image_shape)
    for block, widths in enumerate([(64,) * 2, (128,) * 2, (256,) * 3, (512,) * 4], start=1):
        for layer, width in enumerate(widths, start=1):
            x = _convolution(x, width, f"conv{block}_{layer}", first=block == layer == 1)
        x = _pool(x, f"pool{block}")
        if block >= 3:
            x = layers.Dropout(0.4, name=f"dropout{block}")(x)
    x = layers.Flatten(name="flatten")(x)
    for width in (1024, 256, 64):
        x = layers.Dense(width, activation="relu", name=f"dense{width}")(x)
    x = layers.Dropout(0.3, name=DROPOUT_LAYER)(x)
    return _classifier(images, x, classes, "vgg")


def fast(image_shape: ImageShape, classes: int) -> keras.Model:
    """A teacher for people without a GPU: 1,973,944 parameters on 32x32x3 images of 10 classes.

    After Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU": a fixed whitening
    convolution, three groups of two convolutions with batch normalisation, global max-pooling, and
    logits scaled down. Unlike there, the whitening convolution is padded, so that the maps are 32,
    16 and 8 pixels wide on 32x32 images. `build` sets the fixed weights.
    """
    images, x = _pixels(image_shape)
    patch_values = 2 * 2 * image_shape[2]
    x = layers.Conv2D(2 * patch_values, 2, padding="same", name=WHITENING_LAYER)(x)
    x = layers.Activation("gelu", name="whitened")(x)
    for group, width in enumerate((64, 256, 256), start=1):
        x = _plain_convolution(x, width, f"conv{group}_1")
        x = _normalised(_pool(x, f"pool{group}"), f"norm{group}_1")
        x = _normalised(_plain_convolution(x, width, f"conv{group}_2"), f"norm{group}_2")
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    x = layers.Dense(classes, use_bias=False, name="unscaled_logits")(x)
    return keras.Model(images, layers.Rescaling(1 / 9, name="logits")(x), name="fast")


def student(image_shape: ImageShape, classes: int) -> keras.Model:
    """The notebook's student: 268,650 parameters on 32x32x3 images of 10 classes."""
    images, x = _pixels(image_shape)
    x = _pool(_convolution(x, 16, "conv1", first=True), "pool1")
    x = _pool(_convolution(x, 32, "conv2"), "pool2")
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(128, activation="relu", name="dense128")(x)
    x = layers.Dropout(0.3, name=DROPOUT_LAYER)(x)
    return _classifier(images, x, classes, "student")


def pupil(image_shape: ImageShape, classes: int) -> keras.Model:
    """The notebook's smallest network: 131,882 parameters on 32x32x3 images of 10 classes."""
    images, x = _pixels(image_shape)
    x = _pool(_convolution(x, 16, "conv1", first=True), "pool1")
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(32, activation="relu", name="dense32")(x)
    x = layers.Dropout(0.2, name=DROPOUT_LAYER)(x)
    return _classifier(images, x, classes, "pupil")


def fitnet(image_shape: ImageShape, classes: int) -> keras.Model:
    """A thin and deep student, the kind that hints were invented for: 251,194 parameters on 32x32x3
    images of 10 classes.

    FitNet 1 of Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", table 7: nine convolutions
    and a dense layer of 500, each the maximum of two linear maps (Goodfellow et al. 2013, "Maxout
    Networks"), which makes the paper's 250 K. Nothing is normalised or dropped. Unlike there, the
    weights start as Keras' default has it: so the maps' mean square stays the same from layer to
    layer of equal width, and the network starts to learn without hints too.
    """
    images, x = _pixels(image_shape)
    for block, widths in enumerate([(16, 16, 16), (32, 32, 32), (48, 48, 64)], start=1):
        for layer, width in enumerate(widths, start=1):
            name = f"conv{block}_{layer}"
            pieces = [
                layers.Conv2D(width, 3, padding="same", name=f"{name}_{piece}")(x)
                for piece in (1, 2)
            ]
            x = layers.Maximum(name=name)(pieces)
        x = _pool(x, f"pool{block}") if block < 3 else layers.GlobalMaxPooling2D(name="pool3")(x)
    pieces = [layers.Dense(500, name=f"dense500_{piece}")(x) for piece in (1, 2)]
    return _classifier(images, layers.Maximum(name="dense500")(pieces), classes, "fitnet")


def dense(image_shape: ImageShape, classes: int) -> keras.Model:
    """A student without convolutions, as in an experiment that the notebook dropped, of the size of
    the others: 253,130 parameters on 32x32x3 images of 10 classes."""
    images, x = _pixels(image_shape)
    x = layers.Flatten(name="flatten")(x)
    for layer in (1, 2):
        x = layers.Dense(80, activation="relu", name=f"dense80_{layer}")(x)
    return _classifier(images, x, classes, "dense")


NETWORKS: dict[str, Builder] = {
    "vgg": vgg,
    "fast": fast,
    "student": student,
    "pupil": pupil,
    "fitnet": fitnet,
    "dense": dense,
}

# The layer whose output is a hint when the network teaches, and is guided when it learns: a map of
# features. `dense` has none.
FEATURE_LAYERS = {
    "vgg": "conv3_3",
    "fast": "norm2_2_gelu",
    "student": "pool2",
    "pupil": "pool1",
    "fitnet": "pool2",
}


def check_fit(name: str, image_shape: ImageShape, dropout: float = 0) -> None:
    """Refuse images that the network cannot take, and a dropout that it does not have.

    Raises:
        KdflowError: says which it could.
    """
    height, width, _ = image_shape
    smallest = SMALLEST_SIDE.get(name, 1)
    if min(height, width) < smallest:
        raise KdflowError(
            f"{name}: expected images of at least {smallest}x{smallest} pixels, got"
            f" {height}x{width}"
        )
    if dropout and name in WITHOUT_DROPOUT:
        raise KdflowError(f"{name}: expected dropout=0, as it has no such layer, got {dropout}")


def build(
    name: str, images: np.ndarray, classes: int, *, seed: int, dropout: float | None = None
) -> keras.Model:
    """A freshly initialised network for images like these.

    The seed is set here, immediately before the layers exist: Dropout draws its own seed at
    construction, so whatever ran earlier in the process changes nothing.

    Args:
        name: one of `NETWORKS`.
        images: uint8 training images, (n, height, width, channels); a network with a whitening
            layer takes that layer's weights from them.
        classes: the number of logits.
        seed: initial weights and dropout masks follow from it.
        dropout: the rate of the dropout before the last layer, the network's own if None.
    """
    check_fit(name, images.shape[1:], dropout or 0)
    keras.utils.set_random_seed(seed)
    height, width, channels = images.shape[1:]
    network = NETWORKS[name]((height, width, channels), classes)
    if any(layer.name == WHITENING_LAYER for layer in network.layers):
        layer = network.get_layer(WHITENING_LAYER)
        enough = max(1, WHITENING_PATCHES // ((height - 1) * (width - 1)))
        kernel, bias = whitening(images[:enough])
        layer.kernel.assign(np.concatenate([kernel, -kernel], axis=-1))
        layer.bias.assign(np.concatenate([bias, -bias]))
        layer.trainable = False
        _pass_through(network)
    if dropout is not None and name not in WITHOUT_DROPOUT:
        network.get_layer(DROPOUT_LAYER).rate = dropout
    return network


def _pass_through(network: keras.Model) -> None:
    """Start each 3x3 convolution as one that hands its input channels on, where there are enough
    outputs (Jordan 2024, section 3.2)."""
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D) and layer.kernel_size == (3, 3):
            kernel = layer.kernel.numpy()
            channels = kernel.shape[2]
            kernel[..., :channels] = 0
            kernel[1, 1, :, :channels] = np.eye(*kernel[1, 1, :, :channels].shape)
            layer.kernel.assign(kernel)


def whitening(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 2x2 convolution whose outputs are uncorrelated, of mean 0 and of equal variance on these
    images: its filters are the patches' principal directions, each divided by its standard
    deviation.

    Args:
        images: uint8, (n, height, width, channels).

    Returns:
        The kernel, (2, 2, channels, 4 * channels), and the bias, (4 * channels,), both float32, for
        images scaled to 0..1.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 4 * images.shape[-1]) / np.float32(
        255
    )
    variances, directions = np.linalg.eigh(np.cov(patches, rowvar=False))
    filters = directions / np.sqrt(variances + WHITENING_EPSILON)
    kernel = filters.reshape(2, 2, images.shape[-1], -1)
    bias = -patches.mean(axis=0, dtype=np.float64) @ filters
    return kernel.astype(np.float32), bias.astype(np.float32)


def feature_maps(network: keras.Model) -> dict[str, ImageShape]:
    """The layers whose output is maps that weights have made, in the network's order, each with its
    shape: (height, width, channels)."""
    weighted = dropwhile(lambda layer: not layer.weights, network.layers)
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in weighted}
    return {name: shape for name, shape in shapes.items() if len(shape) == 3}


def feature_layer(network: keras.Model, layer: str, parameter: str) -> str:
    """The layer of `network` that a user means by `layer`, which may be auto.

    Args:
        parameter: what the user gave it as, for the message.

    Raises:
        KdflowError: it is none of `feature_maps`, or the network has no layer of its own in
            `FEATURE_LAYERS`.
    """
    maps = feature_maps(network)
    name = FEATURE_LAYERS.get(network.name, layer) if layer == "auto" else layer
    if name not in maps:
        raise KdflowError(
            f"{parameter}: expected a layer of {network.name} whose output is maps (height, width,"
            f" channels), {', '.join(maps) or 'of which it has none'}; got {layer!r}"
        )
    return name


def features(network: keras.Model, layer: str) -> keras.Model:
    """`network` up to `layer`, with the same weights: from raw pixels to that layer's output."""
    name = f"{network.name}_to_{layer}"
    return keras.Model(network.input, network.get_layer(layer).output, name=name)


def start_from(network: keras.Model, lower: keras.Model) -> None:
    """Give the lower layers of `network` the weights of `lower`, which `features` made of another
    such network; the layers above keep their own."""
    features(network, lower.layers[-1].name).set_weights(lower.get_weights())


def weights_sha256(model: keras.Model) -> str:
    """The SHA-256 of a model's weights: their shapes, dtypes and bytes, in the model's order."""
    digest = hashlib.sha256()
    for weight in model.get_weights():
        digest.update(f"{weight.shape} {weight.dtype} ".encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()


def _pixels(image_shape: ImageShape) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    images = keras.Input(image_shape, dtype="uint8", name="images")
    return images, layers.Rescaling(1 / 255, name="rescaling")(images)


def _convolution(
    x: keras.KerasTensor, width: int, name: str, *, first: bool = False
) -> keras.KerasTensor:
    initializer = "he_normal" if first else "glorot_uniform"
    return layers.Conv2D(
        width, 3, padding="same", activation="relu", kernel_initializer=initializer, name=name
    )(x)


def _plain_convolution(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    return layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)(x)


def _normalised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = layers.BatchNormalization(momentum=0.9, scale=False, name=name)(x)
    return layers.Activation("gelu", name=f"{name}_gelu")(x)


def _pool(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return layers.MaxPooling2D(2, padding="same", name=name)(x)


def _classifier(
    images: keras.KerasTensor, features: keras.KerasTensor, classes: int, name: str
) -> keras.Model:
    return keras.Model(images, layers.Dense(classes, name="logits")(features), name=name)
