from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from kdflow.catalogue.networks import initial
from kdflow.catalogue.networks.initial import whitening
from kdflow.dataset import Images
from kdflow.network import build, untrained


def correlated(count: int, size: int = 12, channels: int = 3) -> np.ndarray:
    """Images whose neighbouring pixels are alike, as those of photographs are."""
    noise = np.random.default_rng(0).normal(size=(count, size, size, channels))
    smooth = noise + np.roll(noise, 1, axis=1) + 0.5 * np.roll(noise, 1, axis=2)
    return np.asarray(np.clip(128 + 40 * smooth, 0, 255), np.uint8)


def all_of(images: np.ndarray) -> Images:
    return Images(images, np.arange(len(images)) % 10, np.arange(len(images)))


def patches_of(images: np.ndarray) -> np.ndarray:
    """Every 2x2 patch of every image, one by one, (patches, 4 * channels), scaled to 0..1."""
    _, height, width, _ = images.shape
    return np.array(
        [
            image[y : y + 2, x : x + 2].ravel() / 255
            for image in images
            for y in range(height - 1)
            for x in range(width - 1)
        ]
    )


def test_whitened_patches_are_uncorrelated_with_mean_0_and_equal_variance() -> None:
    images = correlated(200)
    kernel, bias = whitening(images)
    outputs = ops.conv(images / np.float32(255), kernel, padding="valid") + bias
    np.testing.assert_allclose(np.mean(outputs, axis=(0, 1, 2)), np.zeros(12), atol=1e-4)
    covariance = np.cov(np.asarray(outputs).reshape(-1, 12), rowvar=False)
    np.testing.assert_allclose(covariance, np.eye(12), atol=0.1)
    assert abs(covariance - np.diag(np.diag(covariance))).max() < 0.01


def test_whitening_in_several_batches_is_that_of_the_covariance_of_all_patches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(initial, "IMAGES_AT_A_TIME", 30)
    images = correlated(100, size=6)  # four batches, the last of ten images
    images[60:] //= 2  # so that the batches differ in mean and variance
    kernel, bias = whitening(images)
    patches = patches_of(images)
    covariance, filters = np.cov(patches, rowvar=False), kernel.reshape(12, 12).astype("f8")
    # filters = directions / sqrt(variances + epsilon): free of the directions' signs
    inverse = np.linalg.inv(covariance + 5e-4 * np.eye(12))
    np.testing.assert_allclose(filters @ filters.T, inverse, rtol=1e-4, atol=1e-4 * inverse.max())
    whitened = filters.T @ covariance @ filters
    np.testing.assert_allclose(whitened, np.diag(np.diag(whitened)), atol=1e-5)
    np.testing.assert_allclose(bias, -patches.mean(axis=0) @ filters, rtol=1e-4, atol=1e-5)


def test_no_more_images_are_whitened_than_needed_and_they_are_drawn_over_the_whole_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # sorted by class, as a folder of folders is: the first images are all of class 0
    classes = np.repeat(np.arange(10), 30)
    images = (25 * classes[:, None, None, None] + correlated(300, size=8) // 8).astype(np.uint8)
    monkeypatch.setattr(initial, "PATCHES", 7 * 7 * 50)
    seen = []

    def watched(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(chosen)
        return whitening(chosen)

    monkeypatch.setattr(initial, "whitening", watched)
    network = build("fast", Images(images, classes, np.arange(300)), 10, seed=0)
    (chosen,) = seen
    assert chosen.shape == (50, 8, 8, 3)
    assert set(chosen.mean(axis=(1, 2, 3)) // 25) >= set(range(10))
    kernel, bias = whitening(chosen)
    layer = network.get_layer("whitening")
    np.testing.assert_array_equal(layer.kernel, np.concatenate([kernel, -kernel], axis=-1))
    np.testing.assert_array_equal(layer.bias, np.concatenate([bias, -bias]))


def test_the_whitening_convolution_does_not_learn() -> None:
    train = all_of(correlated(20, size=8))
    network = build("fast", train, 10, seed=0)
    layer = network.get_layer("whitening")
    kernel, bias = whitening(train.images)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(train.images, train.labels, verbose=0)
    assert np.array_equal(layer.kernel, np.concatenate([kernel, -kernel], axis=-1))
    assert np.array_equal(layer.bias, np.concatenate([bias, -bias]))


def test_the_fast_network_starts_by_passing_its_channels_on() -> None:
    network = build("fast", all_of(correlated(20, size=8)), 10, seed=0)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 64)).astype("float32")
    same_width = network.get_layer("conv1_2")(x)
    np.testing.assert_allclose(same_width, x, atol=1e-6)
    widened = np.asarray(network.get_layer("conv2_1")(x))
    np.testing.assert_allclose(widened[..., :64], x, atol=1e-6)
    assert widened[..., 64:].std() > 0.1


def test_an_identity_convolution_with_fewer_outputs_passes_the_first_channels_on() -> None:
    images = keras.Input((5, 5, 6))
    network = keras.Model(images, initial.identity_convolution(images, 4, "narrow"))
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 6)).astype("float32")
    np.testing.assert_allclose(network(x), x[..., :4], atol=1e-6)


def test_a_saved_network_names_keras_own_initialisers(tmp_path: Path) -> None:
    # so that it loads where kdflow is not installed, without code in the file
    network = build("fast", all_of(correlated(20, size=8)), 10, seed=0)
    network.save(tmp_path / "fast.keras")
    loaded = keras.saving.load_model(tmp_path / "fast.keras", safe_mode=True)
    for layer in loaded.layers:
        kind = getattr(layer, "kernel_initializer", None)
        assert kind is None or type(kind).__module__.startswith("keras."), layer.name
    for saved, read in zip(network.get_weights(), loaded.get_weights(), strict=True):
        assert np.array_equal(saved, read)


def test_without_images_the_whitening_starts_at_random() -> None:
    kernel = untrained("fast", (8, 8, 3), 10).get_layer("whitening").kernel
    assert np.std(kernel) > 0
