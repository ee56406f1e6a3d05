"""Train a teacher from labels; find the one that another step needs, or make it."""

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

# The steps whose model tells classes apart; a hint run's upper layers are untrained.
CLASSIFIES = ("teacher", "baseline", "distill")


def run(config: TeacherConfig, data: Dataset, *, child: bool = False) -> StepResult:
    name = f"teacher {config.arch} seed={config.seed}"
    with open_step("teacher", name, config, data, child=child) as run_id:
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
    """The runs whose model `source` names, oldest first; none if it has yet to be made.

    Args:
        source: auto, a network's name, or the id of a run that logged a model.
        holdout: what the model has to be trained with; at 0 there is no validation to keep apart.

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
    if found.step not in CLASSIFIES:
        raise KdflowError(
            f"expected a run that logged a model that classifies, got the {found.step} run {source}"
        )
    if found.tags["kdflow.dataset_digest"] != data.digest:
        raise KdflowError(
            f"expected a model of {data.name} (digest {data.digest}), got run {source} on"
            f" {found.params['dataset']} (digest {found.tags['kdflow.dataset_digest']})"
        )
    if holdout and float(found.params["holdout"]) != holdout:
        raise KdflowError(
            f"expected a model trained with holdout={holdout}, got run {source} with"
            f" holdout={found.params['holdout']}"
        )
    return [found]


def find_verified(source: str, data: Dataset, holdout: float) -> TrainedModel | None:
    """The model that `source` names, or None if it has yet to be made. A damaged one does not
    count, unless `source` is its run.

    Raises:
        KdflowError: `source` is a run that does not fit or whose model is damaged, or a network
            that the images do not fit.
    """
    for found in find(source, data, holdout):
        try:
            return verified_model(found)
        except KdflowError as error:
            if not is_automatic(source):
                raise
            print(f"teacher: {error}; it is not used")
    return None


def make(source: str, data: Dataset, holdout: float, *, child: bool = False) -> TrainedModel:
    """The model that `find_verified` did not find: imported, if it comes with kdflow, or trained at
    its default settings.

    Args:
        child: whether its run is one of the open run.
    """
    started = time.perf_counter()
    if bundled.fits(source, data, holdout):
        run_id, how = bundled.import_teacher(data, child=child), "imported the bundled"
    else:
        config = _default_config(source, data, holdout)
        if bundled.knows(source, data):
            print(
                f"teacher: the one that comes with kdflow was trained with holdout="
                f"{bundled.about()['config']['holdout']}, not {holdout}; it does not fit"
            )
        print(f"teacher: no {config.arch} at its default settings in the store; training one")
        run_id, how = run(config, data, child=child).run_id, "trained"
    made = verified_model(tracking.get_run(run_id))
    print(f"teacher: {how} {made.words} in {time.perf_counter() - started:.1f} s")
    return made


def untrained(source: str, data: Dataset, holdout: float) -> keras.Model:
    """A network like the one that `make` would make, with random weights: for its shapes."""
    arch = _default_config(source, data, holdout).arch
    if bundled.fits(source, data, holdout):
        arch = bundled.about()["config"]["arch"]
    return models.NETWORKS[arch](data.image_shape, data.classes)


def _default_config(source: str, data: Dataset, holdout: float) -> TeacherConfig:
    arch = default_teacher(data.name) if source == "auto" else source
    return TeacherConfig(dataset=data.name, holdout=holdout, arch=arch)  # type: ignore[call-arg,arg-type]
