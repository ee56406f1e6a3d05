"""A folder with a tracking store and a cache of its own, the commands that run there, and a server.
Used by faults.py and cut_off.py."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import mlflow

ROOT = Path(__file__).parent.parent
LIMIT = 900  # seconds after which a command counts as hanging


class Sandbox:
    """A folder where commands run.

    Attributes:
        store: the URI of its tracking store.
        cache: its cache folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.store, self.cache = f"sqlite:///{folder}/mlflow.db", folder / "cache"
        self.database = self.store
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        arguments: Sequence[str],
        *,
        output: int | None = None,
        through: Sequence[str] = (),
        **variables: str,
    ) -> "Process":
        """Start a command.

        Args:
            arguments: a module, kdflow or sweeps, and its arguments.
            output: a descriptor for standard output, the log if None.
            through: a command that starts it.
            variables: of its environment.
        """
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*through, sys.executable, "-m", *arguments],
                cwd=self.folder,
                env=self._environment(variables),
                stdout=log if output is None else output,
                stderr=log,
                start_new_session=True,
            )
        self._running.append(process)
        return Process(process)

    def run(self, arguments: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, see `start`."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=self._environment(variables),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        return os.environ | {
            "MLFLOW_TRACKING_URI": self.store,
            "KDFLOW_CACHE": str(self.cache),
            "KDFLOW_STORE_PATIENCE": "600",
            "PYTHONPATH": str(ROOT),
            **variables,
        }

    def end_all(self) -> None:
        """Kill what is still running here."""
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def shown(self) -> str:
        """What the started commands have printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def shows(self, text: str) -> bool:
        return text in self.shown()

    def wait_for(self, reached: Callable[[], bool], process: "Process") -> None:
        """Wait until something is reached, or the process has ended."""
        wait_until(lambda: reached() or not process.is_running())

    @contextlib.contextmanager
    def small_disk(self, what: str) -> Iterator[Path]:
        """A disk of 64 MB for the tracking store or for the cache. Needs the right to mount."""
        disk = self.folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
        if what == "store":
            self.store = self.database = f"sqlite:///{disk}/mlflow.db"
        else:
            self.cache = disk / "cache"
        try:
            yield disk
        finally:
            self.end_all()
            subprocess.run(["umount", "-l", str(disk)], check=True)

    # --- what is in the store ---

    def runs(self) -> list[Any]:
        """All runs, oldest first."""
        client = mlflow.MlflowClient(self.database)
        ids = [each.experiment_id for each in client.search_experiments()]
        return list(client.search_runs(ids, order_by=["attributes.start_time ASC"]))

    def statuses(self) -> set[str]:
        """The statuses of all runs."""
        return {run.info.status for run in self.runs()}

    def weights(self) -> dict[str, str]:
        """The SHA-256 of the weights of each finished training, by its key."""
        finished = [run for run in self.runs() if run.info.status == "FINISHED"]
        return {
            run.data.tags["kdflow.key"]: run.data.tags["kdflow.weights_sha256"]
            for run in finished
            if "kdflow.weights_sha256" in run.data.tags
        }

    def epochs(self) -> dict[str, list[int]]:
        """The epochs of each metric of each finished run that has any, by run and metric."""
        client, found = mlflow.MlflowClient(self.database), defaultdict(list)
        for run in self.runs():
            if run.info.status == "FINISHED":
                for name in run.data.metrics:
                    for metric in client.get_metric_history(run.info.run_id, name):
                        if metric.step:
                            found[f"{name} of run {run.info.run_id}"].append(metric.step)
        return found


class Process:
    """A started command."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def wait(self) -> int:
        """Its exit status."""
        return self._process.wait(LIMIT)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


class Server:
    """An MLflow server in front of a sandbox's store, with proxied artifacts."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    def __enter__(self) -> "Server":
        self._sandbox.store = f"http://127.0.0.1:{self._port}"
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sandbox.end_all()
        self._signal(signal.SIGKILL)

    def go_away(self, how: str) -> None:
        """Stop answering.

        Args:
            how: killed, or stopped: connections stay open and hang.
        """
        self._signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)

    def come_back(self, how: str) -> None:
        """Answer again."""
        if how == "killed":
            self._start()
        else:
            self._signal(signal.SIGCONT)

    def _start(self) -> None:
        folder = self._sandbox.folder
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                server_command(self._sandbox.database, folder, "127.0.0.1", self._port),
                cwd=folder,
                env=os.environ | {"MLFLOW_TRACKING_URI": ""},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(lambda: answers(self._sandbox.store))
        except TimeoutError as error:
            raise TimeoutError((folder / "server.log").read_text()) from error

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait(LIMIT)


def server_command(database: str, folder: Path, host: str, port: int) -> list[str]:
    """What starts an MLflow server with proxied artifacts, which are kept in `folder`."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", database),
        *("--artifacts-destination", str(folder / "served")),
        *("--host", host, "--port", str(port)),
    ]


def answers(server: str) -> bool:
    """Whether an MLflow server answers at this address."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{server}/health", timeout=5).close()
        return True
    return False


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait until something is reached.

    Raises:
        TimeoutError: it is not within `LIMIT` seconds.
    """
    give_up = time.monotonic() + LIMIT
    while not reached():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not reached in {LIMIT} seconds")
        time.sleep(0.01)
