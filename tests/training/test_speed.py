import time

import keras
import numpy as np
import pytest

from kdflow.dataset import Dataset, Images
from kdflow.network import untrained
from kdflow.training import speed


def test_python_has_its_turn_several_times_a_second_and_not_after_each_small_batch() -> None:
    networks = {name: untrained(name, (32, 32, 3), 10) for name in ("student", "fitnet", "vgg")}
    # the student multiplies 1.9 million times for an image, fitnet 30 million, vgg 300 million
    assert speed.batches_at_once(networks["student"], 64) == 16
    assert speed.batches_at_once(networks["student"], 512) == 4
    assert speed.batches_at_once(networks["fitnet"], 64) == 2
    assert speed.batches_at_once(networks["vgg"], 128) == 1


def test_the_time_of_an_image_is_that_of_the_batches_after_the_first_two(
    tiny: Dataset, train: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    class StandIn:
        def compile(self, *_: object) -> None:
            pass

        def train_on_batch(self, images: np.ndarray, labels: np.ndarray) -> None:
            batches.append((images, labels))

    # a clock that goes on by a quarter of a second at each look
    ticks = iter(np.arange(0, 10, 0.25))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    network: keras.Model = StandIn()
    # started at 0; 0.25, 0.5 and 0.75 are not yet a second, so three batches, and 1.0 ends it
    assert speed.seconds_per_image(network, train, batch_size=80) == 1.0 / (3 * 80)
    assert len(batches) == 2 + 3
    images, labels = batches[0]
    # 54 images fill a batch of 80 by starting again
    order = np.concatenate([train.indices, train.indices[:26]])
    assert np.array_equal(images, tiny.x_train[order])
    assert np.array_equal(labels, tiny.y_train[order])
