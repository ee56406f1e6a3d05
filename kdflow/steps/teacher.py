"""Train a teacher from labels; find the one that another step needs, or train it."""

import time

import keras

from kdflow import models, tracking
from kdflow.config import TeacherConfig, default_teacher, is_automatic
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.steps import bundled
from kdflow.steps.record import (
    StepResult,
    TrainedModel,
    key_of,
    link_upstream,
    open_step,
    verified_model,
)
from kdflow.steps.train import train_network

# Runs that logged no model which tells classes apart: a hint run's upper layers are untrained.
WITHOUT_CLASSIFIER = ("export_logits", "hint", "compare")


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


def find(
    source: str, data: Dataset, holdout: float, parameter: str = "model"
) -> list[tracking.FoundRun]:
    """The runs whose model `source` names, oldest first; none if it has yet to be trained.

    Args:
        source: auto, a network's name, or the id of a run that logged a model.
        holdout: what the model has to be trained with.
        parameter: what the user gave `source` as, for the message.

    Raises:
        KdflowError: `source` is a run that does not fit.
    """
    if bundled.fits(source, data, holdout):
        return tracking.find_runs(bundled.key())
    if is_automatic(source):
        return tracking.find_runs(key_of("teacher", _default_config(source, data, holdout), data))
    found = tracking.get_run(source, parameter)
    if found.step in WITHOUT_CLASSIFIER:
        raise KdflowError(
            f"{parameter}: expected a run that logged a model that classifies, got the"
            f" {found.step} run {source}"
        )
    if found.tags["kdflow.dataset_digest"] != data.digest:
        raise KdflowError(
            f"{parameter}: expected a model of {data.name} (digest {data.digest}), got run"
            f" {source} on {found.params['dataset']} (digest"
            f" {found.tags['kdflow.dataset_digest']})"
        )
    if float(found.params["holdout"]) != holdout:
        raise KdflowError(
            f"{parameter}: expected one trained with holdout={holdout}, got run {source} with"
            f" holdout={found.params['holdout']}"
        )
    return [found]


def find_or_train(source: str, data: Dataset, holdout: float) -> TrainedModel:
    """The model that `source` names; one that is not in the store yet is made."""
    found = find_verified(source, data, holdout)
    if found:
        print(f"teacher: found {describe(found.run)}")
    return found or make(source, data, holdout)


def find_verified(
    source: str, data: Dataset, holdout: float, parameter: str = "model"
) -> TrainedModel | None:
    """The model that `source` names, or None if it has yet to be made: a damaged one does not
    count, unless `source` is its run.

    Args:
        holdout, parameter: as in `find`.

    Raises:
        KdflowError: `source` is a run that does not fit, or whose model is damaged.
    """
    for found in find(source, data, holdout, parameter):
        try:
            return verified_model(found, parameter)
        except KdflowError as error:
            if not is_automatic(source):
                raise
            print(f"{error}; it is not used")
    return None


def make(source: str, data: Dataset, holdout: float) -> TrainedModel:
    """The model that `find_verified` did not find: imported, if it comes with kdflow, or trained at
    its default settings."""
    if bundled.fits(source, data, holdout):
        made = tracking.get_run(bundled.import_teacher(data), "model")
        print(f"teacher: imported the bundled {describe(made)}")
        return verified_model(made, "teacher")
    config = _default_config(source, data, holdout)
    print(f"teacher: no {config.arch} at its default settings in the store; training one")
    started = time.perf_counter()
    made = tracking.get_run(run(config, data).run_id, "model")
    print(f"teacher: trained {describe(made)} in {time.perf_counter() - started:.1f} s")
    return verified_model(made, "teacher")


def untrained(source: str, data: Dataset, holdout: float) -> keras.Model:
    """A network like the one that `make` would make, with random weights: for its shapes."""
    arch = _default_config(source, data, holdout).arch
    if bundled.fits(source, data, holdout):
        arch = bundled.about()["config"]["arch"]
    return models.NETWORKS[arch](data.image_shape, data.classes)


def describe(found: tracking.FoundRun) -> str:
    """A model's run in words."""
    network = found.params.get("arch") or found.params["student"]
    accuracy = found.metrics.get("test_accuracy")
    accuracy_words = f", test accuracy {accuracy:.4f}" if accuracy is not None else ""
    return f"{network}, run {found.run_id}{accuracy_words}{tracking.other_commit(found)}"


def _default_config(source: str, data: Dataset, holdout: float) -> TeacherConfig:
    arch = default_teacher(data.name) if source == "auto" else source
    return TeacherConfig(dataset=data.name, holdout=holdout, arch=arch)  # type: ignore[call-arg,arg-type]
