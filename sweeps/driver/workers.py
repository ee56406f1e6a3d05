"""Where trials run: in this process, or in several Ray workers, on this machine or a cluster."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from kdflow import interrupts
from kdflow.errors import KdflowError, reason
from kdflow.tracking import runs, store
from sweeps.driver.config import SweepConfig
from sweeps.driver.trials import Order, work

CarryOut = Callable[[Order], None]

CLUSTER_TIMEOUT = 30  # seconds: to answer, and to end interrupted trials
INHERITED = ("MLFLOW_TRACKING_", "PG", "KDFLOW_")  # of environment variables
MAX_CRASHES = 5  # per worker, after which the sweep stops: something else must be wrong


@contextlib.contextmanager
def start_workers(config: SweepConfig) -> Iterator[CarryOut]:
    """The function that executes an order, usable inside the block.

    Raises:
        KdflowError: Ray is needed and not installed, or lacks the resources that a worker needs.
    """
    if not config.uses_ray:
        yield work
        return
    try:
        import ray
    except ImportError as error:
        raise KdflowError(
            f"workers, ray_address: expected Ray for workers={config.workers} and"
            f" ray_address={config.ray_address}, got none; install it with pip install -c"
            " constraints.txt -e '.[ray]'"
        ) from error
    try:
        _check_address(config.ray_address)
        ray.init(
            address="local" if config.ray_address == "none" else config.ray_address,
            logging_level="WARNING",
            include_dashboard=False,
            runtime_env={"env_vars": _environment(config.cpus_per_trial)},
        )
    except (ValueError, OSError, RuntimeError) as error:
        if config.ray_address == "none":
            raise KdflowError(f"workers: Ray cannot be started: {reason(error)}") from error
        raise KdflowError(
            f"ray_address: expected a Ray cluster at {config.ray_address}, got {reason(error)}"
        ) from error
    # again, since Ray has handlers of its own
    interrupts.end_on_signals(in_mlflow_run=runs.joins_project_run())
    try:
        _check_resources(config)
        yield lambda order: _carry_out(order, config)
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Fail if nothing listens at `address`, which Ray would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CLUSTER_TIMEOUT).close()


def _check_resources(config: SweepConfig) -> None:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = {"CPU": config.cpus_per_trial, "GPU": config.gpus_per_trial}
    for name, count in needed.items():
        largest = max(node.get(name, 0) for node in nodes)
        if count > largest:
            raise KdflowError(
                f"{name.lower()}s_per_trial: expected at most {largest:.0f}, all that the largest"
                f" machine has, got {count}"
            )
    for what, url in (("storage", config.storage), ("tracking store", store.uri())):
        if len(nodes) > 1 and url.startswith("sqlite:"):
            raise KdflowError(
                f"{what}: expected a server, which all {len(nodes)} machines of the cluster"
                " reach, got sqlite"
            )
    room = sum(
        min(int(node.get(name, 0) / count) for name, count in needed.items() if count)
        for node in nodes
    )
    if room < config.workers:
        print(
            f"workers: only {room} of {config.workers} run at the same time; the cluster has no"
            " CPUs or GPUs for more"
        )


def _carry_out(order: Order, config: SweepConfig) -> None:
    """Have workers execute an order. A worker that dies is replaced; its trial is retried once
    its heartbeats have been missing long enough."""
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    worker = ray.remote(
        max_retries=0, num_cpus=config.cpus_per_trial, num_gpus=config.gpus_per_trial
    )(_work_as)
    inherited = _inherited()
    at_work = [worker.remote(order, inherited) for _ in range(config.workers)]
    crashes = 0
    try:
        while at_work:
            [ended], at_work = ray.wait(at_work)
            try:
                ray.get(ended)
            except (WorkerCrashedError, NodeDiedError, OutOfMemoryError) as error:
                crashes += 1
                if crashes > MAX_CRASHES * config.workers:
                    raise KdflowError(
                        f"workers: more than {MAX_CRASHES * config.workers} have crashed, so the"
                        f" sweep stops; the last: {reason(error)}"
                    ) from error
                print("workers: one has crashed and is replaced")
                at_work.append(worker.remote(order, inherited))
            except RayTaskError as error:
                if isinstance(error.cause, KdflowError):
                    raise error.cause from None
                raise
    except BaseException:  # the other workers end their trials as interrupted ones
        for each in at_work:
            ray.cancel(each)
        ray.wait(at_work, num_returns=len(at_work), timeout=CLUSTER_TIMEOUT)
        raise


def _work_as(order: Order, environment: dict[str, str]) -> None:
    """Execute an order in a worker, with these environment variables."""
    os.environ.update(environment)
    work(order)


def _environment(cpus: int) -> dict[str, str]:
    """The environment variables that a worker needs before it imports Keras: as many threads as it
    has cores. Ray writes them to its logs, so nothing secret is among them."""
    chosen = {"KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "")}
    return {
        **{name: value for name, value in chosen.items() if value},
        "OMP_NUM_THREADS": str(cpus),
        "TF_NUM_INTRAOP_THREADS": str(cpus),
        "TF_NUM_INTEROP_THREADS": "1",
    }


def _inherited() -> dict[str, str]:
    """The driver's stores and passwords, which reach a worker as an argument: Ray logs none."""
    own = {name: value for name, value in os.environ.items() if name.startswith(INHERITED)}
    return {**own, "MLFLOW_TRACKING_URI": store.uri()}
