"""Train a teacher from labels; find the one that another step needs, or train it."""

import time
from typing import NamedTuple

import keras

from kdflow import models, tracking
from kdflow.config import TeacherConfig, default_teacher, is_automatic
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.steps import bundled
from kdflow.steps.record import StepResult, key_of, link_upstream, open_step
from kdflow.steps.train import train_network

MODEL_STEPS = {"teacher", "baseline", "distill"}


class Teacher(NamedTuple):
    """A network that can teach, and where it is from: the id of its run, or `sha256:` and its
    weights' hash. `holdout` is the share of training images that it was not trained on, None where
    that is not known."""

    source: str
    network: keras.Model
    weights_sha256: str
    holdout: float | None


def run(config: TeacherConfig, data: Dataset) -> StepResult:
    name = f"teacher {config.arch} seed={config.seed}"
    with open_step("teacher", name, config, data) as run_id:
        link_upstream("teacher", config, data)
        return train_network(
            run_id,
            name,
            config,
            data,
            view_count=config.augment,
            label_smoothing=config.label_smoothing,
        )


def find(source: str, data: Dataset, holdout: float) -> list[tracking.FoundRun]:
    """The runs whose model `source` names, oldest first; none if it has yet to be trained.

    Args:
        source: auto, a network's name, or the id of a run that logged a model.
        holdout: what the model has to be trained with.

    Raises:
        KdflowError: `source` is a run that does not fit, or a network that the images do not.
    """
    if bundled.fits(source, data, holdout):
        return tracking.find_runs(bundled.key())
    if is_automatic(source):
        config = _default_config(source, data, holdout)
        models.check_fit(config.arch, data.image_shape)
        return tracking.find_runs(key_of("teacher", config, data))
    found = tracking.get_run(source)
    if found.step not in MODEL_STEPS:
        raise KdflowError(
            f"expected a run that logged a model, got {source}, a run of {found.step}"
        )
    if found.tags["kdflow.dataset_digest"] != data.digest:
        raise KdflowError(
            f"expected a model of {data.name} (digest {data.digest}), got run {source} on"
            f" {found.params['dataset']} (digest {found.tags['kdflow.dataset_digest']})"
        )
    if float(found.params["holdout"]) != holdout:
        raise KdflowError(
            f"expected a model trained with holdout={holdout}, got run {source} with"
            f" holdout={found.params['holdout']}"
        )
    return [found]


def check(source: str, data: Dataset, holdout: float) -> None:
    """Refuse what `find_or_train` could not use, before a run is opened for it."""
    for found in find(source, data, holdout):
        if not is_automatic(source):
            _load(found)


def find_or_train(source: str, data: Dataset, holdout: float) -> Teacher:
    """The model that `source` names; one that is not in the store yet is imported, if it comes with
    kdflow, or trained at its default settings."""
    started = time.perf_counter()
    for found in find(source, data, holdout):
        try:
            teacher = _load(found)
        except KdflowError as error:
            if not is_automatic(source):
                raise
            print(f"teacher: {error}; it is not used")
        else:
            print(f"teacher: found {describe(found)}")
            return teacher
    if bundled.fits(source, data, holdout):
        made = tracking.get_run(bundled.import_teacher(data))
        print(f"teacher: imported the bundled {describe(made)} in {_seconds_since(started)}")
        return _load(made)
    config = _default_config(source, data, holdout)
    print(f"teacher: no {config.arch} at its default settings in the store; training one")
    made = tracking.get_run(run(config, data).run_id)
    print(f"teacher: trained {describe(made)} in {_seconds_since(started)}")
    return _load(made)


def describe(found: tracking.FoundRun) -> str:
    """A model's run in words."""
    network = found.params.get("arch") or found.params["student"]
    accuracy = found.metrics.get("test_accuracy")
    accuracy_words = f", test accuracy {accuracy:.4f}" if accuracy is not None else ""
    return f"{network}, run {found.run_id}{accuracy_words}{tracking.other_commit(found)}"


def _load(made_by: tracking.FoundRun) -> Teacher:
    """The run's model, once its weights are shown to be those that were logged."""
    network = tracking.load_model(made_by)
    expected, found = made_by.tags["kdflow.weights_sha256"], models.weights_sha256(network)
    if expected != found:
        raise KdflowError(
            f"expected weights with SHA-256 {expected} in run {made_by.run_id}, got {found}"
        )
    return Teacher(made_by.run_id, network, found, float(made_by.params["holdout"]))


def _seconds_since(started: float) -> str:
    return f"{time.perf_counter() - started:.1f} s"


def _default_config(source: str, data: Dataset, holdout: float) -> TeacherConfig:
    arch = default_teacher(data.name) if source == "auto" else source
    return TeacherConfig(dataset=data.name, holdout=holdout, arch=arch)  # type: ignore[call-arg,arg-type]
