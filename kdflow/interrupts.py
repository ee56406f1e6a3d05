"""What Ctrl-C and SIGTERM do: end every open run as KILLED, and never leave a store half made."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_on_signals() -> None:
    """From now on Ctrl-C and SIGTERM raise KeyboardInterrupt, once: `mlflow run` sends SIGTERM
    after the terminal's own SIGINT."""

    def ignore(*_: object) -> None:
        """Unlike SIG_IGN, not complained of where a second signal has arrived already."""

    def interrupt(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, ignore)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, interrupt)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """A signal that comes inside the block takes effect at its end."""
    held: list[int] = []
    before = {number: signal.signal(number, lambda got, _: held.append(got)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def correct_status_later(run_id: str) -> None:
    """Start the process that makes an interrupted `mlflow run` KILLED: once this one has ended,
    MLflow 3.17 marks it FAILED, whatever its status is by then."""
    subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from kdflow import tracking; tracking.correct_to_killed('{run_id}')",
        ],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
