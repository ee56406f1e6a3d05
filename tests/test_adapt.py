"""A foreign model becomes one from raw pixels to logits, with the same weights."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy.special import expit, softmax

from kdflow import adapt
from kdflow.adapt import PixelRange
from kdflow.errors import KdflowError
from kdflow.network import weights_sha256

L = keras.layers
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def ending_in(*last: Any) -> keras.Model:
    images = keras.Input((8, 8, 3), name="images")
    x = L.Flatten(name="flat")(L.Conv2D(4, 3, name="conv")(L.Rescaling(1 / 255)(images)))
    for layer in last:
        x = layer(x)
    return keras.Model(images, x, name="mine")


def inner(units: int = 3, activation: str = "softmax") -> keras.Model:
    features = keras.Input((4,))
    return keras.Model(features, L.Dense(units, activation=activation)(features), name="head")


@pytest.mark.parametrize(
    "last",
    [
        lambda: [L.Dense(3, activation="softmax")],
        lambda: [L.Dense(3), L.Softmax()],
        lambda: [L.Dense(3), L.Activation("softmax")],
        lambda: [L.Dense(3), keras.ops.softmax],
        lambda: [L.Dense(4), inner()],
    ],
    ids=[
        "activation of a layer",
        "softmax layer",
        "activation layer",
        "operation",
        "inner network",
    ],
)
def test_a_softmax_at_the_end_is_taken_off(last: Any) -> None:
    model = ending_in(*last())
    logits, removed = adapt.without_softmax(model)
    assert removed
    before, after = (np.asarray(it(PIXELS)) for it in (model, logits))
    assert not np.allclose(after.sum(axis=-1), 1)
    np.testing.assert_allclose(softmax(after, axis=-1), before, rtol=1e-5)
    assert weights_sha256(logits) == weights_sha256(model)
    assert logits.name == "mine"


@pytest.mark.parametrize(
    ("last", "has_sigmoid"),
    [
        (lambda: [L.Dense(1, activation="sigmoid")], True),
        (lambda: [L.Dense(1), L.Activation("sigmoid")], True),
        (lambda: [L.Dense(1), keras.ops.sigmoid], True),
        (lambda: [L.Dense(4), inner(1, "sigmoid")], True),
        (lambda: [L.Dense(1)], False),
    ],
    ids=["activation of a layer", "activation layer", "operation", "inner network", "logit"],
)
def test_one_output_becomes_the_logits_of_two_classes(last: Any, has_sigmoid: bool) -> None:
    model = ending_in(*last())
    assert adapt.ends_in_sigmoid(model) == has_sigmoid
    output = np.asarray(model(PIXELS))
    expected = output if has_sigmoid else expit(output)
    logit, was_removed = adapt.without_sigmoid(model)
    assert was_removed == has_sigmoid
    both = adapt.with_two_logits(logit)
    logits = np.asarray(both(PIXELS))
    assert logits[:, 0] == pytest.approx(0)
    np.testing.assert_allclose(softmax(logits, axis=-1)[:, 1:], expected, rtol=1e-5)
    assert both.name == "mine"


@pytest.mark.parametrize("kind", ["hard_sigmoid", "log_sigmoid", "sparse_sigmoid"])
def test_other_sigmoids_are_recognised_and_left(kind: str) -> None:
    model = ending_in(L.Dense(3, activation=kind))
    assert adapt.ends_in_sigmoid(model)
    assert adapt.without_sigmoid(model) == (model, False)


def test_logits_are_left_as_they_are() -> None:
    model = ending_in(L.Dense(3))
    assert adapt.without_softmax(model) == (model, False)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("0..255", PIXELS),
        ("0..1", PIXELS / 255),
        ("-1..1", PIXELS / 127.5 - 1),
        ("imagenet", (PIXELS / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)),
    ],
)
def test_a_network_gets_pixels_as_it_expects_them(
    pixels: PixelRange, expected: np.ndarray, tmp_path: Path
) -> None:
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, L.Flatten()(L.Conv2D(2, 3, name="conv")(images)))
    wrapped = adapt.from_pixels(model, pixels)
    found = np.asarray(wrapped(PIXELS))
    np.testing.assert_allclose(found, model(expected.astype(np.float32)), rtol=1e-4, atol=1e-3)
    assert wrapped.get_layer("conv").output.shape == (None, 6, 6, 2)  # hints find it by name
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.saving.load_model(tmp_path / "wrapped.keras")
    assert np.array_equal(loaded(PIXELS), found)


def test_pixels_of_imagenet_need_three_channels() -> None:
    images = keras.Input((8, 8, 1))
    with pytest.raises(
        KdflowError, match=r"^pixels: expected images of 3 channels for imagenet, go"
    ):
        adapt.from_pixels(keras.Model(images, L.Flatten()(images)), "imagenet")


def two_inputs() -> keras.Model:
    images = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    return keras.Model(images, L.Flatten()(L.Add()(images)))


def two_outputs() -> keras.Model:
    images = keras.Input((8, 8, 3))
    return keras.Model(images, [images, L.Flatten()(images)])


class Subclass(keras.Model):
    def call(self, images: Any) -> Any:
        return images


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "expected a Keras model from it, got a NoneType"),
        (
            Subclass(),
            "expected a functional or sequential Keras model from it, got the subclass Su",
        ),
        (two_inputs(), "expected one input and one output in the network of it, got 2 and 1"),
        (two_outputs(), "expected one input and one output in the network of it, got 1 and 2"),
        (
            keras.Sequential([keras.Input((9, 8, 3)), L.Flatten()]),
            r"expected a network that takes images of shape \(8, 8, 3\) from it, got one that takes"
            r" \(9, 8, 3\)",
        ),
        (keras.Sequential([keras.Input((4,)), L.Dense(2)]), r".* got one that takes \(4,\)"),
        (
            keras.Sequential([L.Conv2D(2, 9)]),
            r"expected a network that takes images of .*, got Comp",
        ),
    ],
    ids=["none", "subclass", "inputs", "outputs", "size", "no images", "does not build"],
)
def test_what_is_no_network_of_these_images_is_refused(model: Any, message: str) -> None:
    with pytest.raises(KdflowError, match=f"^{message}") as refused:
        adapt.functional(model, (8, 8, 3), "it")
    assert "\n" not in str(refused.value)


def test_a_sequential_model_without_an_input_gets_one() -> None:
    built = adapt.functional(keras.Sequential([L.Flatten(), L.Dense(2)]), (8, 8, 3), "it")
    assert built.input_shape == (None, 8, 8, 3)


def test_a_network_for_any_size_is_fixed_to_the_images() -> None:
    images = keras.Input((None, None, 3))
    x = L.Conv2D(2, 3, name="conv")(images)
    anysize = keras.Model(images, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    fixed = adapt.functional(anysize, (8, 8, 3), "it")
    assert fixed.get_layer("conv").output.shape == (None, 6, 6, 2)
    assert np.array_equal(fixed(PIXELS), anysize(PIXELS))


def test_a_network_that_ends_in_another_one_gets_pixels_as_it_expects_them() -> None:
    features = keras.Input((6, 6, 4))
    head = keras.Model(features, L.Dense(3)(L.Flatten()(features)), name="head")
    images = keras.Input((8, 8, 3))
    model = keras.Model(images, head(L.Conv2D(4, 3)(images)))
    expected = model(PIXELS.astype(np.float32) / 255)
    assert np.allclose(adapt.from_pixels(model, "0..1")(PIXELS), expected, atol=1e-5)


@keras.saving.register_keras_serializable()
class Doubled(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


def shifted(x: Any) -> Any:
    return x + 1


@pytest.mark.parametrize(
    "layer",
    [Doubled, lambda: L.Activation(shifted), lambda: L.Lambda(shifted)],
    ids=["registered layer", "function", "lambda layer"],
)
def test_a_network_that_needs_code_of_its_own_is_refused(layer: Any) -> None:
    # it could be trained here, and loaded nowhere else
    with pytest.raises(KdflowError, match=r"^expected a network of Keras' own layers from it") as e:
        adapt.check_needs_no_code(ending_in(layer()), "it")
    assert "\n" not in str(e.value)
    assert Doubled in keras.saving.get_custom_objects().values()  # the registry is as before
    adapt.check_needs_no_code(ending_in(L.Dense(3, activation="gelu")), "it")


@pytest.fixture
def normalising() -> keras.Model:
    """A network of images of any size, which normalises by what it has adapted to."""
    images = keras.Input((None, None, 3))
    adapted = L.Normalization(name="normalised")
    adapted.adapt(PIXELS)
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(adapted(images)))
    return keras.Model(images, L.Dense(3, activation="softmax")(x))


def test_copies_normalise_by_what_a_layer_has_adapted_to(normalising: keras.Model) -> None:
    expected = np.asarray(normalising(PIXELS))
    fixed = adapt.functional(normalising, (8, 8, 3), "it")
    images = keras.Input((8, 8, 3))
    same = L.Activation("linear")(fixed(images * 255))
    of_shares = adapt.from_pixels(keras.Model(images, same), "0..1")
    logits, removed = adapt.without_softmax(keras.Model(images, fixed(images)))
    assert removed
    for found in (fixed(PIXELS), of_shares(PIXELS), softmax(logits(PIXELS), axis=-1)):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_fresh_start_computes_what_it_will_compute_once_it_is_loaded(
    normalising: keras.Model, tmp_path: Path
) -> None:
    fresh = adapt.reinitialised(adapt.functional(normalising, (8, 8, 3), "it"), seed=1)
    fresh.save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    np.testing.assert_allclose(fresh(PIXELS), loaded(PIXELS), atol=1e-6)
    means = np.asarray(fresh.get_layer("normalised")(PIXELS)).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(means, 0, atol=1e-5)


def test_a_fresh_start_follows_from_the_seed_alone_and_keeps_what_a_layer_has_adapted_to() -> None:
    images = keras.Input((8, 8, 3))
    normalised = L.Normalization(name="normalised")
    normalised.adapt(PIXELS)
    x = L.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(seed=5), name="c")(
        normalised(images)
    )
    x = L.Dropout(0.5, seed=5)(L.Flatten()(x))
    model = keras.Model(images, L.Dense(3, trainable=False)(x))
    first, again, other = (adapt.reinitialised(model, seed) for seed in (1, 1, 2))
    assert weights_sha256(first) == weights_sha256(again)
    assert np.array_equal(first(PIXELS, training=True), again(PIXELS, training=True))
    for layer, changes in {"c": True, "normalised": False}.items():
        one, two = (it.get_layer(layer).get_weights()[0] for it in (first, other))
        assert np.array_equal(one, two) is not changes
    one, two = (np.asarray(it.layers[-2](np.ones((1, 99)), training=True)) for it in (first, other))
    assert not np.array_equal(one, two)
    assert len(first.trainable_weights) == 4  # the frozen layer learns as well
