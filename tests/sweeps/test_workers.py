"""Where trials run: Ray's workers, their resources, and what happens when one dies."""

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mlflow
import pytest
from helpers import command_line, environment
from optuna.storages import RDBStorage
from sweeping import (
    all_runs,
    check_that_a_killed_worker_costs_no_trial,
    check_that_workers_search_the_control_too,
    noise,
    sweep,
)

from kdflow.errors import KdflowError
from kdflow.tracking import store as tracking_store
from sweeps.driver import workers
from sweeps.driver.config import SweepConfig
from sweeps.driver.storage import open_storage, parsed

SERVER = "postgresql://host/studies"


def config_of(**values: Any) -> SweepConfig:
    return SweepConfig(study="notebook_grid", trials=1, **values)


def test_a_worker_has_as_many_threads_as_cores_and_gets_no_password_from_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert workers._environment(3) == {
        "KERAS_BACKEND": "jax",
        "OMP_NUM_THREADS": "3",
        "TF_NUM_INTRAOP_THREADS": "3",
        "TF_NUM_INTEROP_THREADS": "1",
    }


def test_a_worker_has_the_stores_and_the_passwords_of_the_driver(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("UNRELATED", "x")
    mlflow.set_tracking_uri("sqlite:///here.db")
    environment = workers._inherited()
    assert environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{store / 'here.db'}"
    assert environment["PGPASSWORD"] == "secret"
    assert "UNRELATED" not in environment


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (["--workers", "2"], "workers=2 and ray_address=none"),
        (["--ray_address", "host:1"], "workers=1 and ray_address=host:1"),
    ],
)
def test_workers_without_ray_say_what_to_install(
    flags: list[str],
    asked: str,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert sweep("notebook_grid", "--dataset", "digits", *flags) == 1
    refused = capsys.readouterr().err
    assert f"workers, ray_address: expected Ray for {asked}, got none" in refused
    assert refused.count("\n") == 1


class WorkerCrashedError(Exception):
    """Stands for Ray's."""


class RayTaskError(Exception):
    """Stands for Ray's: what a worker raised."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Ray without processes: a worker is the next of `outcomes`, which it returns or raises."""
    fake, errors = ModuleType("ray"), ModuleType("ray.exceptions")
    made: Any = fake
    made.started, made.cancelled, made.outcomes, made.options = [], [], [], {}

    def remote(**options: Any) -> Any:
        def start(order: object, environment: dict[str, str]) -> object:
            outcome = made.outcomes.pop(0) if made.outcomes else None
            made.started.append(outcome)
            return outcome

        made.options = options
        return lambda work: SimpleNamespace(remote=start)

    def get(outcome: object) -> object:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    made.remote, made.get, made.cancel = remote, get, made.cancelled.append
    made.wait = lambda at_work, num_returns=1, timeout=None: (at_work[:1], at_work[1:])
    for name in ("NodeDiedError", "OutOfMemoryError"):
        setattr(errors, name, type(name, (Exception,), {}))
    errors.WorkerCrashedError = WorkerCrashedError  # type: ignore[attr-defined]
    errors.RayTaskError = RayTaskError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", errors)
    return made


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        (
            [node(CPU=4)],
            {"cpus_per_trial": 8},
            "cpus_per_trial: expected at most 4, all that the largest machine has, got 8",
        ),
        (
            [node(CPU=4), node(alive=False, CPU=16)],
            {"cpus_per_trial": 8},
            "cpus_per_trial: expected at most 4,",
        ),
        (
            [node(CPU=4)],
            {"gpus_per_trial": 0.5},
            "gpus_per_trial: expected at most 0, all that the largest machine has, got 0.5",
        ),
        (
            [node(CPU=4), node(CPU=4)],
            {},
            "storage: expected a server, which all 2 machines of the cluster reach, got sqlite",
        ),
        (
            [node(CPU=4), node(CPU=4)],
            {"storage": SERVER},
            "tracking store: expected a server, which all 2 machines of the cluster reach, got",
        ),
    ],
)
def test_a_cluster_that_lacks_what_a_worker_needs_is_refused(
    nodes: list[dict[str, Any]], asked: dict[str, Any], message: str, store: Path, ray: Any
) -> None:
    ray.nodes = lambda: nodes
    with pytest.raises(KdflowError) as refused:
        workers._check_resources(config_of(workers=2, **asked))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("nodes", "asked", "room"),
    [
        ([node(CPU=4)], {"workers": 5}, 4),
        ([node(CPU=4)], {"workers": 4}, None),
        ([node(CPU=4)], {"workers": 4, "storage": "sqlite:///studies.db"}, None),  # one machine
        ([node(CPU=5), node(CPU=3)], {"workers": 5, "cpus_per_trial": 2}, 3),  # not 8 / 2
        ([node(CPU=8, GPU=1)], {"workers": 4, "gpus_per_trial": 0.5}, 2),
        ([node(CPU=8, GPU=1), node(CPU=8)], {"workers": 3, "gpus_per_trial": 0.5}, 2),
    ],
)
def test_workers_that_do_not_fit_at_a_time_are_counted(
    nodes: list[dict[str, Any]],
    asked: dict[str, Any],
    room: int | None,
    ray: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ray.nodes = lambda: nodes
    monkeypatch.setattr(tracking_store, "uri", lambda: "http://host")
    workers._check_resources(config_of(**{"storage": SERVER} | asked))
    printed = capsys.readouterr().out
    if room is None:
        assert printed == ""
    else:
        expected = (
            f"workers: only {room} of {asked['workers']} run at the same time; the cluster has no"
            " CPUs or GPUs for more\n"
        )
        assert printed == expected


def test_an_address_where_no_cluster_listens_is_one_line(
    store: Path, ray: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", "digits", "--ray_address", "127.0.0.1:1"]
    assert sweep("notebook_grid", *flags) == 1
    refused = capsys.readouterr().err
    assert "ray_address: expected a Ray cluster at 127.0.0.1:1, got " in refused
    assert refused.count("\n") == 1
    assert all_runs() == []


ORDER: Any = "an order"


def test_a_worker_that_dies_is_replaced(ray: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ray.outcomes = [WorkerCrashedError(), None, WorkerCrashedError()]
    workers._carry_out(ORDER, config_of(workers=2, cpus_per_trial=3, gpus_per_trial=0.5))
    assert len(ray.started) == 2 + 2
    assert capsys.readouterr().out.count("one has crashed and is replaced") == 2
    assert ray.options == {"max_retries": 0, "num_cpus": 3, "num_gpus": 0.5}


def test_workers_that_die_again_and_again_end_the_sweep(ray: Any) -> None:
    ray.outcomes = [WorkerCrashedError("lost\nits node")] * 100
    with pytest.raises(
        KdflowError, match="more than 10 have crashed, so the sweep stops; the last: lost its node"
    ):
        workers._carry_out(ORDER, config_of(workers=2))
    assert len(ray.started) == 2 + 10
    assert len(ray.cancelled) == 1  # the other worker


@pytest.mark.parametrize("error", [KdflowError("of the user's input"), ValueError("a fault")])
def test_what_a_worker_raises_ends_the_sweep(error: Exception, ray: Any) -> None:
    ray.outcomes = [RayTaskError(error), None]
    raised = type(error) if isinstance(error, KdflowError) else RayTaskError
    with pytest.raises(raised):
        workers._carry_out(ORDER, config_of(workers=2))
    assert len(ray.cancelled) == 1


@pytest.mark.slow
def test_a_worker_killed_in_mid_trial_on_sqlite_costs_no_trial_and_leaves_no_run_open(
    store: Path, tiny_npz: Path
) -> None:
    tracking_store.open_store()
    studies: RDBStorage = open_storage(parsed("sqlite:///studies.db"), heartbeat=5)
    check_that_a_killed_worker_costs_no_trial(studies, tracking_store.uri(), tiny_npz, store)
    assert "workers: one has crashed and is replaced" in (store / "sweep.log").read_text()
    assert len(all_runs()) == 1 + 6 + 1 + 4


@pytest.mark.slow
def test_no_password_is_left_on_disk_or_shown_by_ps(store: Path, tiny_npz: Path) -> None:
    secrets = {
        "PGPASSWORD": "s3cret of the database",
        "MLFLOW_TRACKING_PASSWORD": "s3cret of the server",
        "KDFLOW_TOKEN": "s3cret of the user",
    }
    flags = f"--dataset {tiny_npz} --teacher {noise(tiny_npz, store / 'n')} --student pupil"
    flags += " --epochs 1 --trials 2 --workers 2 --repeats 2"
    with tempfile.TemporaryDirectory(prefix="r") as ray:  # the names of its sockets must be short
        variables = {"RAY_TMPDIR": ray, "KDFLOW_CACHE": str(store / "cache"), **secrets}
        with (store / "sweep.log").open("w") as log:
            process = subprocess.Popen(
                command_line("python", "-m", "sweeps", "notebook_grid", *flags.split()),
                cwd=store,
                env=environment(store) | variables,
                stdout=log,
                stderr=log,
            )
        shown = set()
        while process.poll() is None:
            for command in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it has ended
                    shown.add(command.read_bytes())
            time.sleep(0.2)
        assert process.returncode == 0, (store / "sweep.log").read_text()
        files = [path for folder in (store, Path(ray)) for path in folder.rglob("*")]
        contents = {path: path.read_bytes() for path in files if path.is_file()}
    assert any("ray" in str(path) and path.name == "raylet.out" for path in contents)
    assert [path for path, content in contents.items() if b"s3cret" in content] == []
    assert [command for command in shown if b"s3cret" in command] == []


@pytest.mark.slow
def test_workers_on_sqlite_run_the_trials_of_a_searched_control_too(
    store: Path, tiny_npz: Path
) -> None:
    tracking_store.open_store()
    studies = open_storage(parsed("sqlite:///studies.db"), heartbeat=20)
    check_that_workers_search_the_control_too(studies, tracking_store.uri(), tiny_npz, store)
