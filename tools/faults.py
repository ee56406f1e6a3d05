"""What happens to kdflow's trainings when something breaks: kill processes, stop servers, fill
disks, and compare what is in the tracking store afterwards with an undisturbed training.

    python tools/faults.py                 every fault, a few times: about an hour
    python tools/faults.py killed --times 30

Prints a table: each fault, how often it was tried, how often nothing was lost, what was lost.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from faults_sandbox import Sandbox, Server

DIGITS = ["--dataset", "digits"]
DISTILL = ["kdflow", "distill", *DIGITS, "--teacher", "pupil"]
STEPS = {
    "teacher": ["kdflow", "teacher", *DIGITS, "--arch", "pupil", "--epochs", "40"],
    "hint": ["kdflow", "hint", *DIGITS, "--teacher", "pupil", "--epochs", "20"],
    "distill": [*DISTILL, "--epochs", "40"],
    "compare": ["kdflow", "compare", *DISTILL[2:], "--epochs", "10", "--seeds", "2"],
    "sweep": [
        *("sweeps", "notebook_grid", *DISTILL[2:], "--student", "pupil", "--epochs", "8"),
        *("--trials", "2", "--repeats", "2", "--heartbeat", "1"),
    ],
}
BASELINE = ["kdflow", "baseline", *DIGITS, "--student", "pupil", "--epochs", "1"]
SLOW = [*DISTILL, "--epochs", "100"]
EXIT_LIMIT = 10  # seconds


class Lost(Exception):
    """Something that a fault must not cause."""


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Lost(what)


@dataclass
class Fault:
    """Something that breaks.

    Attributes:
        cause: breaks it once, in an empty sandbox; raises `Lost`.
        times: how often it is tried unless the user says otherwise.
    """

    cause: Callable[[Sandbox], None]
    times: int
    lost: list[str] = field(default_factory=list)


@cache
def undisturbed(step: str) -> tuple[dict[str, str], float]:
    """The weights of each training of a step, by its key, and how many seconds the step takes."""
    with sandbox() as empty:
        started = time.monotonic()
        expect(empty.run(STEPS[step]).returncode == 0, "the undisturbed step fails")
        return empty.weights(), time.monotonic() - started


def first_use(store: Sandbox) -> None:
    """Four commands at once on an empty folder."""
    running = [store.start([*BASELINE, "--seed", str(seed)]) for seed in range(4)]
    failed = sum(process.wait() != 0 for process in running)
    expect(failed == 0, f"{failed} of 4 processes fail")
    expect(len(store.weights()) == 4, "not every training is in the store")


def killed_in_first_use(store: Sandbox) -> None:
    """SIGKILL while the tables of a new sqlite store are made."""
    process = store.start(BASELINE)
    store.wait_for(store.folder.joinpath(".mlflow.db.new").exists, process)
    time.sleep(random.uniform(0, 2))
    process.kill()
    process.wait()
    expect(store.run(BASELINE).returncode == 0, "the next command fails")


def killed(step: str) -> Callable[[Sandbox], None]:
    """SIGKILL at a random moment; then the same command again."""

    def cause(store: Sandbox) -> None:
        expected, seconds = undisturbed(step)
        process = store.start(STEPS[step])
        time.sleep(random.uniform(0, seconds))
        process.kill()
        process.wait()
        again = store.run(STEPS[step])
        expect(again.returncode == 0, f"the same command fails: {again.stderr[-300:]}")
        check_whole(store, expected)

    return cause


def server_away(how: str, seconds: float) -> Callable[[Sandbox], None]:
    """The tracking server is killed or stopped in mid-training, and comes back."""

    def cause(store: Sandbox) -> None:
        with Server(store) as server:
            process = store.start(SLOW)
            store.wait_for(lambda: store.shows("epoch   3/100"), process)
            server.go_away(how)
            time.sleep(seconds)
            server.come_back(how)
            expect(process.wait() == 0, "the training fails")
            check_epochs(store)

    return cause


def server_gone(store: Sandbox) -> None:
    """The tracking server is killed in mid-training and is back only for `sync`."""
    with Server(store) as server:
        process = store.start(SLOW, KDFLOW_STORE_PATIENCE="5")
        store.wait_for(lambda: store.shows("epoch   3/100"), process)
        server.go_away("killed")
        expect(process.wait() == 1, "the step does not fail")
        expect("python -m kdflow sync" in store.shown(), "the way out is not shown")
        server.come_back("killed")
        expect(store.run(["kdflow", "sync"]).returncode == 0, "sync fails")
        check_epochs(store)


def interrupted_without_server(how: str) -> Callable[[Sandbox], None]:
    """Ctrl-C while the tracking server does not answer."""

    def cause(store: Sandbox) -> None:
        with Server(store) as server:
            process = store.start(SLOW)
            store.wait_for(lambda: store.shows("epoch   3/100"), process)
            server.go_away(how)
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            asked = time.monotonic()
            expect(process.wait() == 130, "the exit status is not 130")
            took = time.monotonic() - asked
            expect(took < EXIT_LIMIT, f"the process takes {took:.0f} s to end")
            server.come_back(how)
            expect(store.run(["kdflow", "sync"]).returncode == 0, "sync fails")
            expect("KILLED" in store.statuses(), f"the run is {store.statuses()}")
            expect(store.run(SLOW).returncode == 0, "the same command fails")
            check_epochs(store)

    return cause


def ended_by(number: signal.Signals) -> Callable[[Sandbox], None]:
    """A signal, as of a closed terminal, ends the training; then the same command again."""

    def cause(store: Sandbox) -> None:
        process = store.start(SLOW)
        store.wait_for(lambda: store.shows("epoch   3/100"), process)
        process.send_signal(number)
        expect(process.wait() == 130, "the exit status is not 130")
        expect("RUNNING" not in store.statuses(), "a run is RUNNING")
        expect(store.run(SLOW).returncode == 0, "the same command fails")
        check_epochs(store)

    return cause


def full_disk(what: str) -> Callable[[Sandbox], None]:
    """The disk of the tracking store, or of the cache, is full for a while."""

    def cause(store: Sandbox) -> None:
        with store.small_disk(what) as disk:
            process = store.start(SLOW)
            store.wait_for(lambda: store.shows("epoch   3/100"), process)
            filler = disk / "filler"
            with filler.open("wb") as file, suppress(OSError):  # until it is full
                while True:
                    file.write(bytes(2**16))
                    file.flush()
            time.sleep(5)
            filler.unlink()
            status = process.wait()
            if status:
                error = store.shown().splitlines()[-1]
                expect(status == 1 and "Traceback" not in store.shown(), f"status {status}")
                expect(error.startswith("kdflow distill: "), f"the last line is {error}")
                expect(store.run(SLOW).returncode == 0, "the same command fails")
            check_epochs(store)

    return cause


def closed_output(store: Sandbox) -> None:
    """Standard output is a pipe that nobody reads, with a tracking server."""
    with Server(store):
        read, write = os.pipe()
        os.close(read)
        process = store.start(STEPS["distill"], output=write)
        os.close(write)
        expect(process.wait() == 0, "the training fails")
        expect(store.statuses() == {"FINISHED"}, f"the runs are {store.statuses()}")


def ascii_output(store: Sandbox) -> None:
    """Standard output knows ASCII alone, with a tracking server."""
    with Server(store):
        done = store.run(STEPS["distill"], PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
        expect(done.returncode == 0, "the training fails")
        expect(store.statuses() == {"FINISHED"}, f"the runs are {store.statuses()}")


def check_whole(store: Sandbox, expected: dict[str, str]) -> None:
    """Every training is FINISHED with the weights of an undisturbed one, each metric once."""
    for run in store.runs():  # a trial that was killed has failed, and is retried as another one
        allowed = {"FINISHED", "FAILED" if "kdflow.trial" in run.data.tags else "KILLED"}
        expect(run.info.status in allowed, f"a run is {run.info.status}")
    found = store.weights()
    differing = [key for key, weights in expected.items() if found.get(key) != weights]
    expect(not differing, f"{len(differing)} of {len(expected)} trainings have other weights")
    check_epochs(store)


def check_epochs(store: Sandbox) -> None:
    """Each metric of each finished training is there once for every epoch."""
    for metric, steps in store.epochs().items():
        expect(steps == list(range(1, len(steps) + 1)), f"{metric} has the epochs {steps}")


FAULTS: dict[str, Fault] = {
    "first_use": Fault(first_use, 20),
    "killed_in_first_use": Fault(killed_in_first_use, 14),
    **{f"killed_{step}": Fault(killed(step), 8) for step in STEPS},
    "server_killed_30s": Fault(server_away("killed", 30), 1),
    "server_killed_330s": Fault(server_away("killed", 330), 1),
    "server_stopped_30s": Fault(server_away("stopped", 30), 1),
    "server_stopped_330s": Fault(server_away("stopped", 330), 1),
    "server_gone": Fault(server_gone, 1),
    "interrupted_server_killed": Fault(interrupted_without_server("killed"), 1),
    "interrupted_server_stopped": Fault(interrupted_without_server("stopped"), 1),
    "terminal_closed": Fault(ended_by(signal.SIGHUP), 2),
    "terminated": Fault(ended_by(signal.SIGTERM), 2),
    "store_disk_full": Fault(full_disk("store"), 3),
    "cache_disk_full": Fault(full_disk("cache"), 2),
    "closed_output": Fault(closed_output, 2),
    "ascii_output": Fault(ascii_output, 1),
}


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    made = Sandbox(folder)
    try:
        yield made
    finally:
        made.end_all()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("faults", nargs="*", help=f"the first letters of: {', '.join(FAULTS)}")
    parser.add_argument("--times", type=int, help="how often each is tried")
    given = parser.parse_args()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup: commands would inherit it
        signal.signal(signal.SIGHUP, lambda *_: None)
    chosen = {n: f for n, f in FAULTS.items() if n.startswith(tuple(given.faults or [""]))}
    for name, fault in chosen.items():
        fault.times = given.times or fault.times
        for number in range(fault.times):
            with sandbox() as empty:
                try:
                    fault.cause(empty)
                except (Lost, subprocess.TimeoutExpired, TimeoutError) as error:
                    fault.lost.append(str(error))
                    print(f"{name}, {number + 1}: {error}\n{empty.shown()[-2000:]}", flush=True)
        survived = fault.times - len(fault.lost)
        print(f"{name:28} tried {fault.times:3}  nothing lost {survived:3}", flush=True)
    print("\n| fault | tried | nothing lost | what was lost |\n|---|---|---|---|")
    for name, fault in chosen.items():
        lost = "; ".join(sorted(set(fault.lost)))
        print(f"| {name} | {fault.times} | {fault.times - len(fault.lost)} | {lost} |")
    return int(any(fault.lost for fault in chosen.values()))


if __name__ == "__main__":
    sys.exit(main())
