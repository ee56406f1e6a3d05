"""A training holds as much memory for many images as for few."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

# Images of 12 kB, the same ones in both splits. A process of its own makes them: another one that
# this process starts would count this process's peak as its own.
IMAGES = """if True:
    import sys
    import numpy as np
    count = int(sys.argv[1])
    x = np.frombuffer(np.random.default_rng(0).bytes(count * 64 * 64 * 3), np.uint8)
    x, y = x.reshape(count, 64, 64, 3), np.arange(count) % 2
    np.savez("own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
"""

# Teacher, export in two views, and distillation, in one process.
CODE = """if True:
    import mlflow
    from kdflow.__main__ import main
    common = ["--dataset", "own.npz", "--student", "dense", "--epochs", "1"]
    assert main(["baseline", *common, "--augment", "2"]) == 0
    teacher = mlflow.search_runs(search_all_experiments=True, output_format="list")[0].info.run_id
    taught = ["--views", "2", "--teacher", teacher, "--allow_weak_teacher", "true"]
    assert main(["distill", *common, *taught]) == 0
    students = mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.kdflow.step = 'distill'",
        output_format="list",
    )
    print(students[0].data.metrics["peak_memory_mb"])
"""


def peak(folder: Path, images: int) -> float:
    """The most memory that a distillation on so many images holds, in MiB."""
    folder.mkdir()
    given = environment(folder) | {"KDFLOW_CACHE": str(folder / "cache")}
    for code in (IMAGES, CODE):
        command = [sys.executable, "-c", code, str(images)]
        done = subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    few, many = peak(tmp_path / "few", 12_000), peak(tmp_path / "many", 48_000)
    of_the_images = 2 * 36_000 * 64 * 64 * 3 / 2**20  # in both splits
    assert many - few < of_the_images / 6
