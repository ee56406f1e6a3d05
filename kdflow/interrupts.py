"""Ctrl-C, SIGTERM and a closed terminal: end every open run as KILLED, and never leave a store half
made.

An exception that is raised in the middle of TensorFlow or JAX may be lost: both call Python from
finalizers and from the garbage collector, which ignore exceptions. So an interrupt that arrives
while Keras works takes effect between two batches.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which one event may send a signal twice: a wrapper that forwards Ctrl-C, or a shell and
# a terminal that both send SIGHUP.
REPEATED_WITHIN = {signal.SIGINT: 0.5, signal.SIGTERM: 2, signal.SIGHUP: 2}


class _Interrupt:
    """The first signal of this process.

    Attributes:
        received_at: when, None before it.
        is_delayed: whether it takes effect only where `raise_if_due` is called.
        is_due: whether it has been received and `raise_if_due` has yet to be called.
        is_forwarded: whether `mlflow run` sends SIGTERM after the terminal's own SIGINT.
    """

    received_at: float | None = None
    is_delayed = False
    is_due = False
    is_forwarded = False


def end_on_signals(*, in_mlflow_run: bool = False) -> None:
    """Raise KeyboardInterrupt at the first Ctrl-C, SIGTERM or SIGHUP, and end the process at once
    at a later one. SIGHUP stays ignored under nohup; outside the main thread no handler is set.

    Args:
        in_mlflow_run: the parent process is `mlflow run`, which at Ctrl-C sends SIGTERM as well,
            however late: that one does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _Interrupt.received_at, _Interrupt.is_due = None, False
    _Interrupt.is_forwarded = in_mlflow_run
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: object) -> None:
    now = time.monotonic()
    if _Interrupt.received_at is None:
        _Interrupt.received_at = now
        _Interrupt.is_forwarded &= number == signal.SIGINT
        _Interrupt.is_due = True  # stays so where the exception is lost
        if not _Interrupt.is_delayed:
            raise KeyboardInterrupt
    elif _Interrupt.is_forwarded and number == signal.SIGTERM:
        _Interrupt.is_forwarded = False
    elif now - _Interrupt.received_at > REPEATED_WITHIN[signal.Signals(number)]:
        os._exit(130)  # what is on disk is whole; the next command ends the runs


@contextlib.contextmanager
def delayed() -> Iterator[None]:
    """Let an interrupt that is received inside the block take effect at the next `raise_if_due`."""
    before = _Interrupt.is_delayed
    _Interrupt.is_delayed = True
    try:
        yield
    finally:
        _Interrupt.is_delayed = before


@contextlib.contextmanager
def delayed_to_the_end() -> Iterator[None]:
    """Let an interrupt that is received inside the block take effect when the block ends."""
    with delayed():
        yield
    if not _Interrupt.is_delayed:
        raise_if_due()


def is_due() -> bool:
    """Whether an interrupt has been received that `raise_if_due` has yet to raise."""
    return _Interrupt.is_due


def raise_if_due() -> None:
    """Raise KeyboardInterrupt if an interrupt was received that was delayed, or lost."""
    if _Interrupt.is_due:
        _Interrupt.is_due = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Delay signals that arrive inside the block until the block ends. Unlike
    `delayed_to_the_end`, this needs no handlers of `end_on_signals`. Outside the main thread, where
    Python delivers no signals, nothing has to be delayed."""
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
        for received in dict.fromkeys(held):
            signal.raise_signal(received)
