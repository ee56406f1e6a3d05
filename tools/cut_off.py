"""What happens to a sweep of two machines when one of them is cut off from the network for a while:
every trial has to be there once, and every metric.

    python tools/cut_off.py --seconds 360

The other machine is a network namespace with a host name and a cache of its own; PostgreSQL and an
MLflow server run on this side. Needs Linux, root, iproute2, socat and PostgreSQL. About six minutes
more than the cut on two cores.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
from faults_sandbox import Sandbox, answers, server_command, wait_until

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/sweeps"))
import postgres

HERE, THERE, NAMESPACE, LINKS = "10.77.0.1", "10.77.0.2", "kdflow-there", ("kdflow0", "kdflow1")
TRIALS, REPEATS = 16, 3
SWEEP = [
    *("sweeps", "temperature_alpha", "--dataset", "digits", "--student", "pupil"),
    *("--teacher", "pupil", "--epochs", "20"),
    *("--trials", str(TRIALS), "--repeats", str(REPEATS)),
]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def other_machine() -> Iterator[None]:
    """A network namespace that reaches this machine over one link."""
    ip("netns", "add", NAMESPACE)
    try:
        ip("link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1])
        ip("link", "set", LINKS[1], "netns", NAMESPACE)
        ip("addr", "add", f"{HERE}/24", "dev", LINKS[0])
        ip("link", "set", LINKS[0], "up")
        ip("-n", NAMESPACE, "addr", "add", f"{THERE}/24", "dev", LINKS[1])
        for link in (LINKS[1], "lo"):
            ip("-n", NAMESPACE, "link", "set", link, "up")
        yield
    finally:
        ip("netns", "del", NAMESPACE)  # with its end of the link, and so the link


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str]]:
    """PostgreSQL and an MLflow server, which the other machine reaches too; yields the URL of the
    database for studies and that of the server."""
    port = postgres.free_port()
    with postgres.server() as database, contextlib.ExitStack() as started:

        def start(*words: str) -> None:
            with (folder / "servers.log").open("ab") as log:
                process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
            started.callback(lambda: os.killpg(process.pid, signal.SIGKILL))

        of_database = database.rpartition(":")[2]  # which listens on the loopback address alone
        listening = f"TCP-LISTEN:{of_database},bind={HERE},fork,reuseaddr"
        start("socat", listening, f"TCP:127.0.0.1:{of_database}")
        start(*server_command(f"{database}/tracking", folder, HERE, port))
        server = f"http://{HERE}:{port}"
        wait_until(lambda: answers(server))
        yield f"{database.replace('127.0.0.1', HERE)}/studies", server


def found(studies: str) -> list[str]:
    """What is wrong in both stores; prints what is there."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(studies)
    wrong = []
    for summary, expected in zip(
        sorted(optuna.get_all_study_summaries(storage), key=lambda each: len(each.study_name)),
        (TRIALS, 2 * REPEATS),
        strict=True,
    ):
        trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
        print(summary.study_name, dict(Counter(trial.state.name for trial in trials)))
        ended = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
        settings = {tuple(sorted(trial.params.items())) for trial in ended}
        if not len(ended) == len(settings) == expected:
            wrong.append(f"{summary.study_name}: {len(ended)} trials of {len(settings)} settings")
    client = mlflow.MlflowClient()
    ids = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(ids, max_results=1000)
    ends = Counter((run.info.status, run.data.tags.get("kdflow.ended", "")) for run in runs)
    print("runs", dict(ends))
    for run in runs:
        for name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            steps = [metric.step for metric in history if metric.step]
            if steps != list(range(1, len(steps) + 1)):
                wrong.append(f"{name} of run {run.info.run_id} has the epochs {steps}")
    return wrong + [f"a run is {status}" for status, _ in ends if status in ("RUNNING", "FAILED")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=360, help="how long the cut lasts")
    seconds = parser.parse_args().seconds
    with (
        tempfile.TemporaryDirectory(prefix="cut-off-") as name,
        other_machine(),
        servers(Path(name)) as (studies, server),
    ):
        sandboxes = Sandbox(Path(name) / "here"), Sandbox(Path(name) / "there")
        for sandbox in sandboxes:
            sandbox.folder.mkdir()
            sandbox.store = server
        here, there = sandboxes
        elsewhere = ["ip", "netns", "exec", NAMESPACE, "unshare", "--uts", "sh", "-c"]
        elsewhere += ['hostname there; exec "$@"', "sh"]
        command = [*SWEEP, "--storage", studies]
        try:
            started = here.start(command), there.start(command, through=elsewhere)
            wait_until(lambda: there.shown().count("epoch  3/20") > 1)  # in its second long trial
            ip("-n", NAMESPACE, "link", "set", LINKS[1], "down")
            print("cut off", flush=True)
            time.sleep(seconds)
            ip("-n", NAMESPACE, "link", "set", LINKS[1], "up")
            print(f"back after {seconds:.0f} s; here, the sweep", end=" ")
            print("goes on" if started[0].is_running() else "has ended", flush=True)
            statuses = [process.wait() for process in started]
            mlflow.set_tracking_uri(server)
            wrong = found(studies) + [f"exit status {status}" for status in statuses if status]
        finally:
            for sandbox in sandboxes:
                sandbox.end_all()
    print("\n".join(wrong) or "every trial once, every metric there")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
