import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from kdflow import interrupts, tracking


@pytest.fixture(autouse=True)
def _signals_interrupt() -> Iterator[None]:
    """Whatever started the tests may have had signals ignored."""
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    for number in interrupts.SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_takes_effect_at_the_end_of_the_block(number: signal.Signals) -> None:
    reached = []

    def interrupted() -> None:
        with interrupts.held_back():
            signal.raise_signal(number)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the end"]
    assert {signal.getsignal(each) for each in interrupts.SIGNALS} == {signal.default_int_handler}


def test_signals_at_the_same_moment_interrupt_once_and_say_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    interrupts.end_on_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, interrupts.SIGNALS)
    for number in interrupts.SIGNALS:
        signal.pthread_kill(threading.get_ident(), number)
    with pytest.raises(KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.SIGNALS)
    signal.raise_signal(signal.SIGINT)  # nor does a later one
    assert said == []


@pytest.mark.slow
def test_ctrl_c_while_a_new_store_is_made_leaves_one_that_opens(store: Path) -> None:
    def interrupt_once_it_is_begun() -> None:
        while not (store / "mlflow.db").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_once_it_is_begun)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tracking.open_store()
    thread.join()
    code = "from kdflow import tracking; tracking.open_store()"
    uri = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    again = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | uri, capture_output=True, check=False
    )
    assert again.returncode == 0, again.stderr.decode()
