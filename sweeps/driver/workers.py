"""Where trials run: in this process, or in several through Ray, on this machine or on a cluster."""

from kdflow import tracking
from kdflow.errors import KdflowError
from sweeps.driver.config import SweepConfig
from sweeps.driver.trials import Order, work

PATIENCE = 20  # seconds that interrupted workers have


def check(config: SweepConfig) -> None:
    """Refuse, before anything is made, workers that cannot be had.

    Raises:
        KdflowError: says what to install.
    """
    if config.uses_ray:
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise KdflowError(
                f"workers: expected Ray for workers={config.workers}, got none; install it with"
                " pip install -c constraints.txt -e '.[ray]'"
            ) from error


def carry_out(order: Order, config: SweepConfig) -> None:
    """Have the order worked off. A worker that dies is replaced: its trial is tried again once it
    has given no sign of life for long enough."""
    if not config.uses_ray:
        work(order)
        return
    import ray

    ray.init(
        address=None if config.ray_address == "none" else config.ray_address,
        logging_level="WARNING",
        ignore_reinit_error=True,
        include_dashboard=False,
        runtime_env={"env_vars": _environment(config.cpus_per_trial)},
    )
    worker = ray.remote(
        max_retries=0, num_cpus=config.cpus_per_trial, num_gpus=config.gpus_per_trial
    )(work)
    at_work = [worker.remote(order) for _ in range(config.workers)]
    try:
        while at_work:
            [ended], at_work = ray.wait(at_work)
            try:
                ray.get(ended)
            except ray.exceptions.WorkerCrashedError:
                print("workers: one has died; another one takes its place")
                at_work.append(worker.remote(order))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, KdflowError):
                    raise error.cause from None
                raise
    except KeyboardInterrupt:  # a worker ends its trial as an interrupted one, if it is let
        for each in at_work:
            ray.cancel(each)
        ray.wait(at_work, num_returns=len(at_work), timeout=PATIENCE)
        raise
    finally:
        ray.shutdown()


def _environment(cpus: int) -> dict[str, str]:
    """So that workers beside each other use as many threads as there are cores, and one store."""
    return {
        "MLFLOW_TRACKING_URI": tracking.store_uri(),
        "OMP_NUM_THREADS": str(cpus),
        "TF_NUM_INTRAOP_THREADS": str(cpus),
        "TF_NUM_INTEROP_THREADS": "1",
    }
