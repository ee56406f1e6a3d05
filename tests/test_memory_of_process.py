"""The memory that a process has needed, as the system counts it."""

import resource
import sys
from pathlib import Path

import pytest

from kdflow import memory


def test_the_peak_is_that_of_the_systems_own_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(memory, "STATUS", status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    assert memory.peak_memory_mb() == pytest.approx(counted, rel=0.2)
    status.write_text("Name:\tpython\n")  # of a system that does not count it there
    assert memory.peak_memory_mb() == pytest.approx(counted, rel=0.2)
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\n")
    assert memory.peak_memory_mb() == 2
