import time

import keras
import numpy as np
import pytest

from kdflow.dataset import Dataset, Images
from kdflow.network import untrained
from kdflow.training import speed


def test_python_has_its_turn_several_times_a_second_and_not_after_each_small_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "multiplications_per_second", lambda: 1e11)
    networks = {name: untrained(name, (32, 32, 3), 10) for name in ("student", "fitnet", "vgg")}

    # the student multiplies 1.9 million times for an image, fitnet 30 million, vgg 300 million
    def at_once(name: str, batch_size: int) -> int:
        return speed.batches_at_once(networks[name], batch_size)

    assert at_once("student", 64) == 27  # 0.1 s / (3 * 64 * 1.9e6 / 1e11)
    assert at_once("student", 512) == 3
    assert at_once("fitnet", 64) == 1
    assert at_once("vgg", 128) == 1
    monkeypatch.setattr(speed, "multiplications_per_second", lambda: 1e13)  # a GPU
    assert at_once("student", 64) == 50  # a call of each batch takes two milliseconds
    assert at_once("fitnet", 64) == 50
    assert at_once("vgg", 128) == 8


def test_the_speed_is_that_of_a_matrix_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PRODUCTS", 3)
    ticks = iter([0, 5, 10, 12, 20, 24])  # of 5, 2 and 4 seconds
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    assert speed.multiplications_per_second.__wrapped__() == 1024**3 / 2


def test_the_time_of_an_image_is_that_of_the_batches_after_the_first_two(
    tiny: Dataset, train: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    class StandIn(keras.Model):
        def compile(self, *_: object) -> None:
            pass

        def train_on_batch(self, images: np.ndarray, labels: np.ndarray) -> None:
            batches.append((images, labels))

    # a clock that goes on by a quarter of a second at each look
    ticks = iter(np.arange(0, 10, 0.25))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    network = StandIn()
    # started at 0; 0.25, 0.5 and 0.75 are not yet a second, so three batches, and 1.0 ends it
    assert speed.seconds_per_image(network, train, batch_size=40) == 1.0 / (3 * 40)
    assert len(batches) == 2 + 3
    images, labels = batches[0]
    order = train.indices[:40]
    assert np.array_equal(images, tiny.x_train[order])
    assert np.array_equal(labels, tiny.y_train[order])
    # a batch is at most all images, as in training
    assert speed.seconds_per_image(network, train, batch_size=80) == 1.0 / (3 * 54)
