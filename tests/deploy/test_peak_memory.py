"""The memory that a file needs."""

from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import needs_deploy

from kdflow.deploy import make
from kdflow.deploy.memory import peak_memory_of_file_mb

pytestmark = needs_deploy


def dense(width: int) -> keras.Model:
    images = keras.Input((8, 8, 3))
    x = keras.layers.Dense(width)(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(3)(x))


@pytest.mark.slow
def test_a_larger_network_needs_more_by_its_weights(tmp_path: Path) -> None:
    ballast = np.ones(100 * 2**17)  # 100 MiB of this process, which is not the file's
    peaks = []
    for width in (8, 100_000):
        (tmp_path / str(width)).mkdir()
        folder = tmp_path / str(width)
        (path,) = make.make(dense(width), ballast[:0], folder, [make.FLOAT32]).paths
        peaks.append(peak_memory_of_file_mb(path, 1))
    small, large = peaks
    weights = 100_000 * (8 * 8 * 3 + 1 + 3) * 4 / 2**20
    assert 10 < small < 100
    assert weights * 0.9 < large - small < weights * 3
