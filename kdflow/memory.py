"""The memory that this process has needed."""

import re
import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_memory_mb() -> float:
    """The most memory that this process has held at once, in MiB. Linux's ru_maxrss would count
    that of the process that started it too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    if found:
        return int(found[1]) / 2**10
    in_bytes = sys.platform == "darwin"  # Linux and the BSDs count in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if in_bytes else 2**10)
