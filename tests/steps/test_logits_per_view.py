from pathlib import Path

import keras
import numpy as np
import pytest

from kdflow import views
from kdflow.artifacts import checkpoints
from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.config.views import Views
from kdflow.dataset import Images
from kdflow.evaluate import metrics
from kdflow.network import build
from kdflow.steps import export_logits
from kdflow.steps.export_logits import logits_per_view


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (23, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def network(images: np.ndarray) -> keras.Model:
    return build("pupil", Images(images, np.arange(23) % 4, np.arange(23)), 4, seed=0)


@pytest.mark.parametrize("at_a_time", [7, 22, 100])
def test_each_image_has_the_logits_of_each_of_its_views_however_many_parts_there_are(
    images: np.ndarray,
    network: keras.Model,
    monkeypatch: pytest.MonkeyPatch,
    at_a_time: int,
) -> None:
    # parts and views in the wrong order have the right shape, and other images' logits
    monkeypatch.setattr(export_logits, "IMAGES_AT_A_TIME", at_a_time)
    found = logits_per_view(network, images, Views(4))
    assert found.shape == (4, 23, 4)
    assert found.dtype == np.float32
    for view in range(4):
        shown = views.apply(images, np.full(23, view))
        np.testing.assert_allclose(found[view], network(shown, training=False), atol=1e-5)
    # no two images, and no two views of an image, are alike enough to be mistaken
    flat = found.reshape(4 * 23, 4)
    distances = np.abs(flat[:, None] - flat[None]).max(axis=-1)
    assert distances[~np.eye(4 * 23, dtype=bool)].min() > 2e-5


@pytest.mark.parametrize("view_count", [1, 3, 4, 18])
def test_averaged_logits_are_means_over_a_view_and_its_mirror_image(
    images: np.ndarray, network: keras.Model, monkeypatch: pytest.MonkeyPatch, view_count: int
) -> None:
    monkeypatch.setattr(export_logits, "IMAGES_AT_A_TIME", 7)
    found = logits_per_view(network, images, Views(view_count), averaged=True)
    assert found.shape == (view_count, 23, 4)
    for view in range(view_count):
        shown = views.apply(images, np.full(23, view))
        both = [np.asarray(network(each, training=False)) for each in (shown, shown[:, :, ::-1])]
        np.testing.assert_allclose(found[view], np.mean(both, axis=0), atol=1e-5)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("view_set", ["shifts", "photos"])
def test_an_export_goes_on_after_the_parts_that_it_has_computed(
    images: np.ndarray,
    network: keras.Model,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    view_set: str,
    averaged: bool,
) -> None:
    monkeypatch.setattr(export_logits, "IMAGES_AT_A_TIME", 7)
    wanted, others = Views(3, view_set), images[::-1]
    computed: list[int] = []
    predict = metrics.predict_logits

    def counted(*given: object) -> np.ndarray:
        computed.append(1)
        if len(computed) == 9:  # of 4 parts of each view, and of another split
            raise KeyboardInterrupt
        return predict(*given)  # type: ignore[arg-type]

    def exported(checkpoint: Checkpoint | None) -> list[np.ndarray]:
        given = {"test": (others, Views()), "train": (images, wanted)}
        return [
            logits_per_view(network, *each, checkpoint, split, averaged)
            for split, each in given.items()
        ]

    expected = exported(None)
    monkeypatch.setattr(metrics, "predict_logits", counted)
    with checkpoints.locked("a" * 32) as checkpoint:
        with pytest.raises(KeyboardInterrupt):
            exported(checkpoint)
        found = exported(checkpoint)
    computed_views = 2 + 4 if averaged else 1 + 3
    assert len(computed) == 4 * computed_views + 1  # what was interrupted alone is computed again
    assert all(map(np.array_equal, found, expected))


def test_no_part_is_larger_than_may_be_copied_at_a_time(
    images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    class StandIn:
        output_shape = (None, 3)

        def predict(self, x: np.ndarray, **_: object) -> np.ndarray:
            sizes.append(len(x))
            return x.reshape(len(x), -1)[:, :3].astype(np.float32)

    monkeypatch.setattr(export_logits, "IMAGES_AT_A_TIME", 7)
    monkeypatch.setattr(metrics, "in_batches", lambda images, **_: {"x": images})
    stand_in: keras.Model = StandIn()
    found = logits_per_view(stand_in, images, Views(2))
    assert max(sizes) <= 7
    assert sum(sizes) == 2 * 23
    assert np.array_equal(found[0], images.reshape(23, -1)[:, :3])
    assert np.array_equal(found[1], images[:, :, ::-1].reshape(23, -1)[:, :3])
