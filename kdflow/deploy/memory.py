"""The memory that a file needs, as the peak of a process that opens and runs it once.

python -m kdflow.deploy.memory <file> <threads>
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

from kdflow.deploy.files import open_file
from kdflow.errors import KdflowError
from kdflow.memory import peak_memory_mb


def peak_memory_of_file_mb(path: Path, threads: int) -> float:
    """The most memory that a process holds which does nothing but answer one image, in MiB: Python,
    NumPy and the runtime included.

    Raises:
        KdflowError: the process fails, for example because the memory is full.
    """
    command = [sys.executable, "-m", "kdflow.deploy.memory", str(path), str(threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = textwrap.shorten(" ".join(done.stderr.splitlines()[-1:]), 200) or "no message"
        raise KdflowError(
            f"{path.name}: expected a process that runs it to end with status 0, got"
            f" {done.returncode} ({last})"
        )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Open a file, run it, and print the peak."""
    file = open_file(Path(sys.argv[1]), int(sys.argv[2]))
    _, *sides = file.input.shape
    file.logits(np.zeros((1, *(side or 1 for side in sides)), np.float32))
    print(peak_memory_mb())


if __name__ == "__main__":
    main()
