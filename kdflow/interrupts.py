"""Ctrl-C, SIGTERM and a closed terminal: end every open run as KILLED, and never leave a store half
made."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """Raise KeyboardInterrupt at the first Ctrl-C, SIGTERM or SIGHUP, and ignore later ones, since
    `mlflow run` sends SIGTERM after the terminal's own SIGINT. SIGHUP stays ignored under nohup;
    outside the main thread no handler is set."""
    if threading.current_thread() is not threading.main_thread():
        return

    def ignore(*_: object) -> None:
        """Unlike SIG_IGN, no complaint if a second signal has already arrived."""

    def interrupt(*_: object) -> None:
        for number in SIGNALS:
            signal.signal(number, ignore)
        raise KeyboardInterrupt

    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Delay a signal that arrives inside the block until the block ends. Outside the main thread,
    where Python delivers no signals, nothing has to be delayed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
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
    """Start a process that sets an interrupted `mlflow run` to KILLED after this process has ended:
    MLflow 3.17 marks that run FAILED, whatever its status is by then."""
    subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from kdflow.tracking import runs; runs.correct_to_killed('{run_id}')",
        ],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
