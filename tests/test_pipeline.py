import keras
import numpy as np
import pytest

from kdflow.errors import KdflowError
from kdflow.pipeline import errors_of_batches, in_batches, one_at_a_time

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 1), np.uint8)
TARGETS: dict[str, np.ndarray] = {
    "labels": np.arange(7, dtype=np.uint8),
    "teacher_logits": np.ones((7, 3), np.float32),
}


class Recorder(keras.Model):
    """Returns the first pixel of each image, and remembers what it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

    def call(self, images):  # type: ignore[no-untyped-def]
        return keras.ops.cast(images[:, 0, 0, :], "float32")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]
        arrays = {name: keras.ops.convert_to_numpy(each) for name, each in y.items()}
        self.seen.append((keras.ops.convert_to_numpy(x), arrays))
        return keras.ops.mean(y_pred)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_training_sees_images_and_targets_in_their_order_a_batch_at_a_time() -> None:
    recorder = Recorder()
    recorder.compile("sgd", run_eagerly=True)
    recorder.fit(**in_batches(IMAGES, TARGETS, batch_size=3), shuffle=False, verbose=0)
    batches = recorder.seen[-3:]  # what comes before only builds the model
    assert [len(images) for images, _ in batches] == [3, 3, 1]
    assert np.array_equal(np.concatenate([images for images, _ in batches]), IMAGES)
    for name, expected in TARGETS.items():
        found = np.concatenate([targets[name] for _, targets in batches])
        assert np.array_equal(found, expected)
        assert found.dtype == expected.dtype


class Pairs(keras.utils.PyDataset):
    """Two images at a time, with their labels."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        part = slice(2 * index, 2 * index + 2)
        return IMAGES[part], {"labels": TARGETS["labels"][part]}


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_batches_that_are_made_one_at_a_time_are_seen_in_their_order() -> None:
    recorder = Recorder()
    recorder.compile("sgd", run_eagerly=True)
    recorder.fit(**one_at_a_time(Pairs()), shuffle=False, verbose=0)
    batches = recorder.seen[-4:]
    assert [len(images) for images, _ in batches] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate([images for images, _ in batches]), IMAGES)
    found = np.concatenate([targets["labels"] for _, targets in batches])
    assert np.array_equal(found, TARGETS["labels"])
    assert found.dtype == TARGETS["labels"].dtype


class Failing(Pairs):
    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if index == 2:
            raise KdflowError("expected a third batch, got none")
        return super().__getitem__(index)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_the_error_of_a_batch_that_cannot_be_made_is_raised_as_it_is() -> None:
    """TensorFlow would raise one of its own, with a trace of its graph."""
    recorder = Recorder()
    recorder.compile("sgd", run_eagerly=True)
    with (
        pytest.raises(KdflowError, match=r"^expected a third batch, got none$"),
        errors_of_batches(),
    ):
        recorder.fit(**one_at_a_time(Failing()), shuffle=False, verbose=0)
    with pytest.raises(ZeroDivisionError), errors_of_batches():
        _ = 1 / 0  # no batch's error is raised twice


def test_predictions_are_in_the_order_of_the_images() -> None:
    found = Recorder().predict(**in_batches(IMAGES, batch_size=3), verbose=0)
    assert np.array_equal(found, IMAGES[:, 0, 0])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a pipeline of TensorFlow")
def test_no_thread_tunes_the_pipeline_since_a_training_would_wait_for_it() -> None:
    for made in (in_batches(IMAGES, TARGETS, batch_size=3), one_at_a_time(Pairs())):
        assert made["x"].options().autotune.enabled is False
