"""A short version of tools/faults.py: what breaks costs no training and no metric."""

import subprocess
import sys

import pytest
from helpers import ROOT

# One of each kind that needs no right to mount a disk.
SHORT = ("killed_distill", "interrupted_server_killed", "server_gone", "ascii")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # six minutes of work, and waits that other tests prolong
def test_nothing_is_lost() -> None:
    tried = subprocess.run(
        [sys.executable, ROOT / "tools" / "faults.py", *SHORT, "--times", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    rows = [line for line in tried.stdout.splitlines() if line.endswith("|")][2:]
    assert [row.split("|")[2:4] for row in rows] == [[" 1 ", " 1 "]] * len(SHORT), tried.stdout
    assert tried.returncode == 0
