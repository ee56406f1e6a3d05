import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from helpers import ROOT

from kdflow import interrupts
from kdflow.evaluate.metrics import predict_logits
from kdflow.tracking.store import open_store


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
        with interrupts.signals_deferred():
            signal.raise_signal(number)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the end"]
    assert {signal.getsignal(each) for each in interrupts.SIGNALS} == {signal.default_int_handler}


def test_a_signal_that_is_ignored_does_not_hide_another() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup

    def interrupted() -> None:
        with interrupts.signals_deferred():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_in_another_thread_the_block_runs_and_signals_stay_as_they_are() -> None:
    # Python lets only the main thread set handlers, and delivers signals to that one alone: a step
    # that a notebook runs in a thread must not fail here
    seen: list[object] = []

    def work() -> None:
        with interrupts.signals_deferred():
            seen.extend(signal.getsignal(number) for number in interrupts.SIGNALS)
        seen.append("the end")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler] * len(interrupts.SIGNALS) + ["the end"]


def test_an_error_in_the_block_gives_the_handlers_back() -> None:
    with pytest.raises(ValueError, match=r"^mine$"), interrupts.signals_deferred():
        raise ValueError("mine")
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


def test_a_delayed_interrupt_takes_effect_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts.end_on_signals()
    with interrupts.delayed():
        assert not interrupts.is_due()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.is_due()
    with pytest.raises(KeyboardInterrupt):
        interrupts.raise_if_due()
    interrupts.raise_if_due()  # once


def test_an_interrupt_is_delayed_until_the_outer_block_allows_it() -> None:
    interrupts.end_on_signals()
    reached = []

    def interrupted() -> None:
        with interrupts.delayed_to_the_end():
            with interrupts.delayed_to_the_end():
                signal.raise_signal(signal.SIGINT)
                reached.append("the end of the inner block")
            reached.append("the end of the outer block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the end of the inner block", "the end of the outer block"]
    assert not interrupts.is_due()


def test_an_interrupt_that_a_finalizer_loses_is_raised_at_the_next_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(unraisable.exc_type))
    interrupts.end_on_signals()

    class Interrupted:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    Interrupted()
    assert lost == [KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        interrupts.raise_if_due()


def test_an_interrupt_of_a_prediction_takes_effect_after_a_batch() -> None:
    # 750 images are three batches; the interrupt arrives while Keras traces the network
    class Interrupting(keras.layers.Layer):
        def call(self, x):  # type: ignore[no-untyped-def]
            if built:
                signal.raise_signal(signal.SIGINT)
                traced.append(x.shape)
            return x

    built: list[keras.Model] = []
    traced: list[object] = []
    network = keras.Sequential([keras.Input((2, 2, 1)), Interrupting(), keras.layers.Flatten()])
    built.append(network)
    interrupts.end_on_signals()
    with pytest.raises(KeyboardInterrupt):
        predict_logits(network, np.zeros((750, 2, 2, 1), np.uint8))
    assert len(traced) == 1
    assert not interrupts.is_due()


@pytest.mark.parametrize(
    ("in_mlflow_run", "received", "ends"),
    [
        (False, ["SIGINT", "SIGINT"], True),
        (False, ["SIGINT", "SIGTERM"], True),
        (True, ["SIGINT", "SIGTERM"], False),  # `mlflow run` forwards one Ctrl-C, as SIGTERM
        (True, ["SIGINT", "SIGINT"], True),
        (True, ["SIGINT", "SIGTERM", "SIGTERM"], True),
        (True, ["SIGTERM", "SIGTERM"], True),
    ],
)
def test_a_second_signal_ends_the_process_at_once(
    in_mlflow_run: bool, received: list[str], ends: bool
) -> None:
    code = (
        "import signal, time; from kdflow import interrupts\n"
        "interrupts.REPEATED_WITHIN = dict.fromkeys(interrupts.SIGNALS, 0.1)\n"
        f"interrupts.end_on_signals(in_mlflow_run={in_mlflow_run})\n"
        "try:\n"
        f"    signal.raise_signal(signal.{received[0]})\n"
        "except KeyboardInterrupt:\n"
        f"    for name in {received[1:]}:\n"
        "        time.sleep(0.2)\n"
        "        signal.raise_signal(signal.Signals[name])\n"
        "    print('goes on')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    )
    assert done.returncode == (130 if ends else 0)
    assert done.stdout == (b"" if ends else b"goes on\n")


@pytest.mark.slow
def test_ctrl_c_while_a_new_store_is_made_does_not_spoil_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(address)

    def interrupt_once_it_is_begun() -> None:
        while not (tmp_path / ".mlflow.db.new").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_once_it_is_begun, daemon=True)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            open_store()
    finally:
        mlflow.set_tracking_uri(None)
    thread.join(timeout=60)
    code = "from kdflow.tracking.store import open_store; open_store()"
    again = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MLFLOW_TRACKING_URI": address, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr.decode()


def test_an_interrupt_ends_the_wait_for_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://there")

    def interrupted(**_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the signal was deferred")

    monkeypatch.setattr(mlflow, "search_experiments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_store()
