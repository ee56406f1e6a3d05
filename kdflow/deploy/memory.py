"""The memory that a file needs, as the peak of a process that opens and runs it once.

python -m kdflow.deploy.memory <file> <threads>
"""

import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from kdflow.deploy.files import open_file

STATUS = Path("/proc/self/status")


def peak_memory_mb(path: Path, threads: int) -> float:
    """The most memory that a process holds which does nothing but answer one image, in MiB: Python,
    NumPy and the runtime included."""
    command = [sys.executable, "-m", "kdflow.deploy.memory", str(path), str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def own_peak_memory_mb() -> float:
    """The most memory that this process has held, in MiB. Linux's ru_maxrss would count that of the
    process that started it too."""
    if STATUS.exists():
        (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        return int(kibibytes) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def main() -> None:
    """Open a file, run it, and print the peak."""
    file = open_file(Path(sys.argv[1]), int(sys.argv[2]))
    _, *sides = file.input.shape
    file.logits(np.zeros((1, *(side or 1 for side in sides)), np.float32))
    print(own_peak_memory_mb())


if __name__ == "__main__":
    main()
