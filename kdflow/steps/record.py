"""What the run of every step records of itself: parameters, config, what it was made from."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import keras

from kdflow import models, tracking
from kdflow.config import Config, canonical
from kdflow.data import Dataset
from kdflow.errors import KdflowError

# What these name is in the key by content: the data set's digest and the upstream run ids.
NAMED_BY_CONTENT = {"dataset", "teacher", "model", "init"}


class TrainedModel(NamedTuple):
    """A network, and where it is from.

    Attributes:
        source: the id of its run, or `sha256:` and the hash of its weights.
        weights_sha256: verified.
        holdout: the share of training images that it was not trained on, where known.
        words: what the console calls it.
    """

    source: str
    network: keras.Model
    weights_sha256: str
    holdout: float | None
    words: str


class StepResult(NamedTuple):
    """What a finished step leaves: its run, and that run's last metrics."""

    run_id: str
    metrics: dict[str, float]


@contextlib.contextmanager
def open_step(
    step: str, name: str, config: Config, data: Dataset, *, child: bool = False
) -> Iterator[str]:
    """The open run of a step, with its parameters and config logged; yields the run id.

    Args:
        child: of the run that is open, if one is.
    """
    with tracking.open_run(name, step, data, child=child) as run_id:
        print(f"{name}: run {run_id}")
        values = config.model_dump()
        tracking.log_params({field: canonical(value) for field, value in values.items()})
        tracking.log_json(values, "config.json")
        yield run_id


def link_upstream(step: str, config: Config, data: Dataset, **upstream: str) -> None:
    """Record on the open run what it is made from, and with that its key.

    Args:
        upstream: the run id of each role.
    """
    roles = {f"kdflow.upstream.{role}": run_id for role, run_id in upstream.items()}
    tracking.set_tags({**roles, "kdflow.key": key_of(step, config, data, **upstream)})


def find_result(
    step: str, network_name: str, config: Config, data: Dataset, **upstream: str
) -> StepResult | None:
    """What the oldest run with the key of this step and a sound model left, or None if there is no
    such run.

    Args:
        network_name: what this step trains.
    """
    for found in tracking.find_runs(key_of(step, config, data, **upstream)):
        try:
            current_model(found, network_name, data)
        except KdflowError as error:
            print(f"{step}: {error}; it is not used")
        else:
            print(f"{step}: found run {found.run_id}{tracking.other_commit(found)}")
            return StepResult(found.run_id, found.metrics)
    return None


def key_of(step: str, config: Config, data: Dataset, **upstream: str) -> str:
    """The key of the run that this step would make; see `tracking.run_key`."""
    params = config.model_dump(exclude=NAMED_BY_CONTENT)
    return tracking.run_key(step, params, data.digest, upstream)


def current_model(run: tracking.FoundRun, network_name: str, data: Dataset) -> TrainedModel:
    """The model that a run logged, once it is shown to be that network as the code has it now.

    Raises:
        KdflowError: it is not, cannot be loaded, or has other weights than those of the run.
    """
    there = verified_model(run)
    here = models.NETWORKS[network_name](data.image_shape, data.classes)
    if [weight.shape for weight in here.weights] != [w.shape for w in there.network.weights]:
        raise KdflowError(
            f"expected {network_name} as it is now, got run {run.run_id}, whose weights have other"
            f" shapes{tracking.other_commit(run)}"
        )
    return there


def verified_model(run: tracking.FoundRun) -> TrainedModel:
    """The model that a run logged, once its weights are shown to be those of that run.

    Raises:
        KdflowError: it cannot be loaded, or has other weights.
    """
    network = tracking.load_model(run)
    expected, found = run.tags["kdflow.weights_sha256"], models.weights_sha256(network)
    if expected != found:
        raise KdflowError(
            f"expected weights with SHA-256 {expected} in run {run.run_id}, got {found}"
        )
    accuracy = run.metrics.get("test_accuracy")
    accuracy_words = f", test accuracy {accuracy:.4f}" if accuracy is not None else ""
    words = f"{network.name}, run {run.run_id}{accuracy_words}{tracking.other_commit(run)}"
    return TrainedModel(run.run_id, network, found, float(run.params["holdout"]), words)
