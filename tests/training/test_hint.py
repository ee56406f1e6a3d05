from collections.abc import Generator, Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
from fitting import equal_weights, without_times
from sklearn.neighbors import NearestCentroid

from kdflow.artifacts.hints import Cached, Hints
from kdflow.config.fitting import Settings
from kdflow.dataset import Dataset, Images
from kdflow.errors import KdflowError
from kdflow.features import features
from kdflow.network import build
from kdflow.training import hint
from kdflow.training.hint import fit_hint, regressed_maps
from kdflow.training.progress import Metrics


@pytest.fixture
def hints(tmp_path: Path) -> Iterator[Hints]:
    """Hints of 4x4x5 numbers for each of the 60 images of `tiny`."""
    maps = np.random.default_rng(3).normal(0, 2, (60, 4, 4, 5)).astype(np.float16)
    with (tmp_path / "hints").open("w+b", buffering=0) as file:
        maps.tofile(file)
        yield Cached(file, 60, (4, 4, 5))


def hinted(
    train: Images, validation: Images, hints: Hints, seed: int = 0, learning_rate: float = 0.001
) -> tuple[keras.Model, list[Metrics]]:
    """A pupil after two epochs on hints, and its metrics without the measured times."""
    network = build("pupil", train, 3, seed=seed)
    epochs = fit_hint(
        features(network, "pool1"),
        train,
        validation,
        train_hints=hints,
        validation_hints=hints,
        settings=Settings("adam", learning_rate, epochs=2, batch_size=16, seed=seed),
    )
    return network, without_times([metrics for _, metrics in epochs])


def test_weights_after_hints_are_those_of_a_hand_written_adam(
    train: Images, validation: Images, tmp_path: Path
) -> None:
    # guided layer and regressor are both linear, so that each gradient is two products
    epochs, rate, seed = 4, 0.01, 7
    images = keras.Input((8, 8, 3), dtype="uint8")
    small = keras.layers.AveragePooling2D(2)(keras.layers.Rescaling(1 / 255)(images))
    guided = keras.Model(images, keras.layers.Conv2D(2, 1, kernel_initializer="ones")(small))
    maps = np.random.default_rng(3).normal(0, 2, (60, 4, 4, 5)).astype(np.float16)
    with (tmp_path / "hints").open("w+b", buffering=0) as file:
        maps.tofile(file)
        given = Cached(file, 60, (4, 4, 5))
        trained = list(
            fit_hint(
                guided,
                train,
                validation,
                train_hints=given,
                validation_hints=given,
                # all images in a batch, so that their order does not matter
                settings=Settings("adam", rate, epochs, batch_size=54, seed=seed),
            )
        )
    assert [epoch for epoch, _ in trained] == [1, 2, 3, 4]
    history = [metrics for _, metrics in trained]

    pooled = (train.images / 255).reshape(60, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    x, target = pooled[train.indices].reshape(-1, 3), maps[train.indices].astype(float)
    target = target.reshape(-1, 5)
    drawn = keras.initializers.GlorotNormal(seed)((1, 1, 2, 5))
    weights = [np.ones((3, 2)), np.zeros(2), np.asarray(drawn, float)[0, 0], np.zeros(5)]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for step in range(1, epochs + 1):
        kernel, bias, regressor, regressor_bias = weights
        features_of_x = x @ kernel + bias
        residual = features_of_x @ regressor + regressor_bias - target
        assert history[step - 1]["hint_loss"] == pytest.approx((residual**2).mean(), rel=1e-5)
        by_output = 2 * residual / residual.size
        by_features = by_output @ regressor.T
        gradients = [
            x.T @ by_features,
            by_features.sum(axis=0),
            features_of_x.T @ by_output,
            by_output.sum(axis=0),
        ]
        for i, gradient in enumerate(gradients):  # Kingma and Ba 2015, algorithm 1
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.999 * v[i] + 0.001 * gradient**2
            corrected = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            weights[i] = weights[i] - corrected * m[i] / (np.sqrt(v[i]) + 1e-7)
        kernel, bias, regressor, regressor_bias = weights
        seen = pooled[validation.indices].reshape(-1, 3)
        error = (seen @ kernel + bias) @ regressor + regressor_bias
        error -= maps[validation.indices].reshape(-1, 5)
        assert history[step - 1]["val_hint_loss"] == pytest.approx((error**2).mean(), rel=1e-4)
    found_kernel, found_bias = guided.get_weights()
    np.testing.assert_allclose(found_kernel[0, 0], weights[0], atol=1e-4)
    np.testing.assert_allclose(found_bias, weights[1], atol=1e-4)


def test_epochs_of_hints_are_trained_as_they_are_taken(
    train: Images, validation: Images, hints: Hints
) -> None:
    network = build("pupil", train, 3, seed=0)
    before = network.get_weights()
    epochs = fit_hint(
        features(network, "pool1"),
        train,
        validation,
        train_hints=hints,
        validation_hints=hints,
        settings=Settings("adam", 0.001, epochs=2, batch_size=16, seed=0),
    )
    assert all(map(np.array_equal, network.get_weights(), before))
    _, first = next(epochs)
    after_one = network.get_weights()
    assert isinstance(epochs, Generator)
    epochs.close()
    assert not np.array_equal(after_one[0], before[0])
    both, history = hinted(train, validation, hints)
    assert without_times([first]) == history[:1]
    assert not np.array_equal(both.get_weights()[0], after_one[0])


def test_only_the_layers_up_to_the_guided_one_move(
    train: Images, validation: Images, hints: Hints
) -> None:
    network, _ = hinted(train, validation, hints)
    initial = build("pupil", train, 3, seed=0)
    moved = [
        not np.array_equal(a, b) for a, b in zip(network.weights, initial.weights, strict=True)
    ]
    assert moved == [True, True, False, False, False, False]


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # of ReLUs that never fire
def test_the_probe_is_scikit_learns_nearest_centroid_on_the_guided_features(
    tiny: Dataset, hints: Hints
) -> None:
    order = np.random.default_rng(0).permutation(60)
    labels = order % 3  # which the images do not tell, so that the probe is often wrong
    train, validation = order[:35], order[35:]
    network, history = hinted(
        Images(tiny.x_train, labels, train), Images(tiny.x_train, labels, validation), hints
    )
    maps = np.asarray(features(network, "pool1")(tiny.x_train), float).reshape(60, -1)
    probe = NearestCentroid().fit(maps[train], labels[train])
    expected = probe.score(maps[validation], labels[validation])
    assert 0.1 < expected < 0.7
    assert history[-1]["val_probe_accuracy"] == pytest.approx(expected)


def test_the_probe_takes_equally_many_images_of_each_class_and_all_of_a_rare_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hint, "MAX_PROBE_IMAGES", 90)
    labels = np.repeat([0, 1, 2], [400, 60, 7])
    train = Images(np.zeros((467, 1, 1, 1), np.uint8), labels, np.arange(467)[::-1][:460])
    probed = hint.probe_indices(train)  # without the first 7 images
    assert set(np.unique(probed)) <= set(train.indices)
    assert np.bincount(labels[probed]).tolist() == [30, 30, 7]
    assert np.array_equal(probed, np.unique(probed))
    assert np.array_equal(probed, hint.probe_indices(train))
    assert probed[:30].max() > 200  # drawn over the whole class


@pytest.mark.slow
def test_a_seed_repeats_the_metrics_of_hints_and_another_does_not(
    train: Images, validation: Images, hints: Hints
) -> None:
    first, metrics = hinted(train, validation, hints, seed=1)
    keras.utils.set_random_seed(77)
    second, again = hinted(train, validation, hints, seed=1)
    assert metrics == again
    assert equal_weights(first, second)
    assert hinted(train, validation, hints, seed=2)[1] != metrics
    assert set(metrics[0]) == {
        *("hint_loss", "val_hint_loss", "val_probe_accuracy", "learning_rate"),
    }


def test_a_hint_loss_that_is_no_number_stops_the_run(
    train: Images, validation: Images, hints: Hints
) -> None:
    with pytest.raises(KdflowError, match=r"expected a finite loss, got (nan|inf) in epoch 1 of 2"):
        hinted(train, validation, hints, learning_rate=1e30)


# --- maps of another size -----------------------------------------------------------------------


def test_maps_twice_as_large_are_regressed_by_their_blocks() -> None:
    guided = keras.Input((8, 6, 3))
    regressor = keras.Model(guided, regressed_maps(guided, (4, 3, 5), seed=2))
    maps = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    kernel, bias = regressor.get_weights()
    assert kernel.shape == (2, 2, 3, 5)
    blocks = maps.reshape(2, 4, 2, 3, 2, 3)
    expected = np.einsum("nhiwjc,ijco->nhwo", blocks, kernel) + bias
    np.testing.assert_allclose(regressor(maps), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 6), (3, 5), (4, 8)])
def test_maps_of_any_other_size_are_resized_first(size: tuple[int, int]) -> None:
    guided = keras.Input((*size, 3))
    regressor = keras.Model(guided, regressed_maps(guided, (4, 4, 5), seed=2))
    constant = np.full((1, *size, 3), 2, np.float32)
    kernel, _ = regressor.get_weights()
    expected = np.broadcast_to(2 * kernel.sum(axis=(0, 1, 2)), (1, 4, 4, 5))
    np.testing.assert_allclose(regressor(constant), expected, rtol=1e-5)


def test_a_layer_of_another_size_learns_the_hints(
    train: Images, validation: Images, hints: Hints
) -> None:
    network = build("pupil", train, 3, seed=0)
    before = network.get_layer("conv1").get_weights()[0]
    epochs = fit_hint(
        features(network, "conv1"),  # 8x8, where the hints are 4x4
        train,
        validation,
        train_hints=hints,
        validation_hints=hints,
        settings=Settings("adam", 0.01, epochs=3, batch_size=16, seed=0),
    )
    losses = [metrics["hint_loss"] for _, metrics in epochs]
    assert losses[2] < losses[0]
    assert not np.array_equal(network.get_layer("conv1").get_weights()[0], before)
