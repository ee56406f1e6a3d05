"""The memory that a file needs."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import needs_deploy

from kdflow.deploy import make
from kdflow.deploy.memory import peak_memory_of_file_mb
from kdflow.errors import KdflowError

pytestmark = needs_deploy


def dense(width: int) -> keras.Model:
    images = keras.Input((8, 8, 3))
    x = keras.layers.Dense(width)(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(3)(x))


def test_the_process_that_is_measured_loads_neither_keras_nor_mlflow() -> None:
    code = (
        "import sys\nimport kdflow.deploy.memory\n"
        "heavy = {'keras', 'mlflow', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_that_cannot_be_run_is_one_line_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "int8.tflite").write_bytes(b"no file of LiteRT")
    expected = r"^int8.tflite: expected a process that runs it .* status 0, got 1 \(\w*Error"
    with pytest.raises(KdflowError, match=expected):
        peak_memory_of_file_mb(tmp_path / "int8.tflite", 1)


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
