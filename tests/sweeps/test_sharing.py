"""What the processes of one study agree on, and who owns its parent run."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sweeping import STUDIES, new_studies, without_waiting

from kdflow.errors import KdflowError
from sweeps.driver import sharing
from sweeps.driver.sharing import (
    ENDED,
    OWNER,
    _wait_for,
    has_owner,
    open_study,
    ownership,
    parent_of,
    shared_value,
)
from sweeps.driver.storage import open_storage, parsed
from sweeps.driver.trial_queue import RUN_ID

BEAT = "upstream: heartbeat"
HERE = socket.gethostname()


@pytest.fixture(scope="module")
def new_study(shared_store: Path) -> Iterator[Callable[[], optuna.Study]]:
    with new_studies() as make:
        yield make


@pytest.fixture
def study(new_study: Callable[[], optuna.Study]) -> Iterator[optuna.Study]:
    with without_waiting():
        yield new_study()


def in_another_process(study: optuna.Study) -> optuna.Study:
    """The same study as another process opens it."""
    return optuna.load_study(study_name=study.study_name, storage=STUDIES)


# --- the description ---


def test_a_study_that_minimises_is_refused(shared_store: Path) -> None:
    opened = open_storage(parsed(STUDIES), heartbeat=1)
    optuna.create_study(storage=opened, study_name="Ann's", direction="minimize")
    with pytest.raises(KdflowError, match=r"expected a study that maximises, got .Ann"):
        open_study(opened, "Ann's", {}, {})


def test_what_an_older_study_may_lack_is_compared_with_what_it_had_then(
    shared_store: Path,
) -> None:
    opened = open_storage(parsed(STUDIES), heartbeat=1)
    open_study(opened, "older", {"epochs": 2}, {})
    _, is_new = open_study(opened, "older", {"epochs": 2, "later": 1}, {"later": 1})
    assert not is_new
    with pytest.raises(KdflowError, match="'older' began with later=1, got later=2"):
        open_study(opened, "older", {"epochs": 2, "later": 2}, {"later": 1})
    with pytest.raises(KdflowError, match="'older' began with later=None, got later=1"):
        open_study(opened, "older", {"epochs": 2, "later": 1}, {})


# --- a shared value ---


def test_processes_of_a_study_agree_on_the_first_ones_value(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken() -> str:
        study.set_user_attr("upstream", "of the other, which was faster")
        return "mine"

    assert shared_value(study, "upstream", True, overtaken) == "of the other, which was faster"
    assert (
        shared_value(study, "upstream", False, lambda: "mine") == "of the other, which was faster"
    )
    monkeypatch.setattr(sharing, "DEAD_AFTER", 0)  # as if the maker had died before it had one
    assert shared_value(study, "another", False, lambda: "mine") == "mine"
    assert study.user_attrs["another"] == "mine"


def test_a_process_waits_for_the_shared_value_while_its_maker_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(monotonic=lambda: now, sleep=sleep)
    monkeypatch.setattr(sharing, "time", clock)

    def lives_for(seconds: int) -> Callable[[], float]:
        return lambda: min(now, seconds) // sharing.BEAT_EVERY

    made = _wait_for(lambda: "made" if now >= 3600 else None, lives_for(3600))
    assert (made, now) == ("made", 3600)
    assert _wait_for(lambda: None, lives_for(7200)) is None
    assert 7200 < now <= 7200 + sharing.DEAD_AFTER + 1


@pytest.mark.slow  # for several seconds, so that a busy machine's pauses do not count
@pytest.mark.parametrize("beats", [True, False])
def test_a_process_that_joins_waits_for_a_slow_export_as_long_as_its_driver_has_a_heartbeat(
    beats: bool, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "DEAD_AFTER", 4)
    monkeypatch.setattr(sharing, "BEAT_EVERY", 0.1 if beats else 100)
    makes, joined = threading.Event(), threading.Event()

    def slow_export() -> str:
        makes.set()
        joined.wait(8)  # twice as long as a silent process is waited for
        return "the driver's"

    with ThreadPoolExecutor() as pool:
        driver = pool.submit(shared_value, study, "upstream", True, slow_export)
        assert makes.wait(60)
        found = shared_value(in_another_process(study), "upstream", False, lambda: "the joiner's")
        joined.set()
        assert found == ("the driver's" if beats else "the joiner's")
        assert driver.result() == found


@pytest.mark.slow
def test_two_processes_that_resume_at_once_after_an_interrupt_make_the_value_once(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "SETTLED", 4)  # longer than a busy machine takes to write
    study.set_user_attr(BEAT, ENDED)
    both, made = threading.Barrier(2), []

    def resume(number: int) -> str:
        opened = in_another_process(study)

        def make() -> str:
            made.append(number)
            return f"of process {number}"

        both.wait()
        return str(shared_value(opened, "upstream", False, make))

    with ThreadPoolExecutor() as pool:
        values = list(pool.map(resume, (1, 2)))
    assert len(made) == 1
    assert values == [f"of process {made[0]}"] * 2


def test_a_maker_has_a_heartbeat_until_it_has_ended(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "BEAT_EVERY", 0.01)
    renewed = threading.Event()
    write, beats = study.set_user_attr, []

    def unreachable_once(name: str, value: object) -> None:
        if name == BEAT:
            beats.append(value)
            if len(beats) == 2:
                raise StorageInternalError("no answer")
        write(name, value)
        if len(beats) > 2:
            renewed.set()

    monkeypatch.setattr(study, "set_user_attr", unreachable_once)

    def make() -> str:
        assert renewed.wait(60)
        assert study.user_attrs[BEAT] in beats[2:]
        return "made"

    assert shared_value(study, "upstream", True, make) == "made"
    assert study.user_attrs[BEAT] == ENDED


def test_no_process_waits_for_a_maker_that_was_interrupted(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_value(study, "upstream", True, interrupted)
    monkeypatch.setattr(sharing, "LOOK_EVERY", 3600)
    assert shared_value(study, "upstream", False, lambda: "mine") == "mine"
    assert "waiting" not in capsys.readouterr().out


def test_an_unreachable_storage_does_not_hide_what_ended_the_maker(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, value: object) -> None:
        raise StorageInternalError("no answer")

    def make() -> str:
        monkeypatch.setattr(study, "set_user_attr", unreachable)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_value(study, "upstream", True, make)


# --- the owner of the parent run ---


@contextlib.contextmanager
def running() -> Iterator[int]:
    """The id of a process that is alive."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid


def test_a_process_that_lives_owns_the_run_until_it_has_ended(study: optuna.Study) -> None:
    assert not has_owner(study)
    with running() as pid:
        study.set_user_attr(OWNER, [HERE, pid, time.time()])
        assert has_owner(study)
        with ownership(study) as is_owner:
            assert not is_owner
            assert study.user_attrs[OWNER][1] == pid
        # the id of a process that has died can be that of another one today
        study.set_user_attr(OWNER, [HERE, pid, time.time() - 2 * sharing.DEAD_AFTER])
        assert not has_owner(study)
    study.set_user_attr(OWNER, [HERE, pid, time.time()])
    assert not has_owner(study)  # it has died
    with ownership(study) as is_owner:
        assert is_owner
        assert study.user_attrs[OWNER][:2] == [HERE, os.getpid()]
    assert study.user_attrs[OWNER] == ENDED
    assert not has_owner(study)


@pytest.mark.slow
@pytest.mark.parametrize("opens", [True, False])
def test_a_joining_process_waits_for_the_parent_run_as_long_as_the_owner_has_a_heartbeat(
    opens: bool, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "DEAD_AFTER", 3)
    monkeypatch.setattr(sharing, "BEAT_EVERY", 0.1)
    study.set_user_attr(RUN_ID, None)
    owns = threading.Event()

    def slowly_opened() -> None:
        opened = in_another_process(study)
        with ownership(opened):
            owns.set()
            time.sleep(6)  # a tracking server that does not answer at first
            if opens:
                opened.set_user_attr(RUN_ID, "the run")

    with ThreadPoolExecutor() as pool:
        owner = pool.submit(slowly_opened)
        assert owns.wait(60)
        assert parent_of(study) == ("the run" if opens else None)
        owner.result()


@pytest.mark.slow
@pytest.mark.parametrize("last", ["beats", "silent", ENDED])
def test_an_owner_on_another_machine_is_known_by_its_heartbeat(
    last: str, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "DEAD_AFTER", 5)
    elsewhere = in_another_process(study)
    elsewhere.set_user_attr(OWNER, ["elsewhere", os.getpid(), 0])  # by a clock of its own
    next_beat = {"beats": ["elsewhere", os.getpid(), 20], ENDED: ENDED}.get(last)
    timer = threading.Timer(0.2, lambda: elsewhere.set_user_attr(OWNER, next_beat))
    if next_beat:
        timer.start()
    assert has_owner(study) == (last == "beats")


@pytest.mark.slow
def test_of_two_processes_that_resume_at_once_one_owns_the_run(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "SETTLED", 4)  # longer than a busy machine takes to write
    monkeypatch.setattr(sharing, "has_owner", lambda study: False)  # as both have just seen
    both = threading.Barrier(2)

    def owns(opened: optuna.Study) -> bool:
        both.wait()
        with ownership(opened) as is_owner:
            return is_owner

    with ThreadPoolExecutor() as pool:
        assert sum(pool.map(owns, [in_another_process(study) for _ in range(2)])) == 1
