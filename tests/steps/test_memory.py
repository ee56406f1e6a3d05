"""A training holds as much memory for many images as for few."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import environment

# Teacher, export in two views, and distillation, in one process.
CODE = """if True:
    import sys
    import mlflow
    from kdflow.__main__ import main
    common = ["--dataset", sys.argv[1], "--student", "dense", "--epochs", "1"]
    assert main(["baseline", *common, "--augment", "2"]) == 0
    teacher = mlflow.MlflowClient().search_runs(["0"])[0].info.run_id
    assert main(["distill", *common, "--views", "2", "--teacher", teacher]) == 0
    print(mlflow.MlflowClient().search_runs(["0"], "tags.kdflow.step = 'distill'")[0]
        .data.metrics["peak_memory_mb"])
"""


def peak(folder: Path, images: int) -> float:
    """The most memory that a distillation on so many images of 12 kB holds, in MiB."""
    rng = np.random.default_rng(0)
    shape = (images, 64, 64, 3)
    pixels = np.frombuffer(rng.bytes(images * 64 * 64 * 3), np.uint8).reshape(shape)
    labels = np.arange(images) % 2
    folder.mkdir()
    np.savez(folder / "own.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    given = environment(folder) | {"KDFLOW_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", CODE, str(folder / "own.npz")]
    done = subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    few, many = peak(tmp_path / "few", 12_000), peak(tmp_path / "many", 48_000)
    of_the_images = 2 * 36_000 * 64 * 64 * 3 / 2**20  # in both splits
    assert many - few < of_the_images / 6
