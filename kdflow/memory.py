"""The memory that this process has needed."""

import re
import resource
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory_mb() -> float:
    """The most memory that this process has held at once, in MiB. Linux's ru_maxrss would count
    that of the process that started it too."""
    if STATUS.exists():
        (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        return int(kibibytes) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
