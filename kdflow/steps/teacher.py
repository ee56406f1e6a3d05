"""Train a teacher from labels; find the one that another step needs, or train it."""

import time

from kdflow import tracking
from kdflow.config import NETWORK_NAMES, TeacherConfig, default_teacher
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.steps.record import StepResult, key_of, link_upstream, open_step
from kdflow.steps.train import train_network


def run(config: TeacherConfig, data: Dataset) -> StepResult:
    name = f"teacher {config.arch} seed={config.seed}"
    with open_step("teacher", name, config, data) as run_id:
        link_upstream("teacher", config, data)
        return train_network(run_id, name, config, data)


def find(source: str, data: Dataset, holdout: float) -> tracking.FoundRun | None:
    """The run whose model `source` names, or None if it names a teacher yet to be trained.

    Args:
        source: auto, a network's name, or the id of a run that logged a model.

    Raises:
        KdflowError: `source` is a run that does not fit.
    """
    if source == "auto" or source in NETWORK_NAMES:
        return tracking.find_run(key_of("teacher", _default_config(source, data, holdout), data))
    found = tracking.get_run(source, "model")
    if found.step == "export_logits":
        raise KdflowError(f"model: expected a run that logged a model, got the export {source}")
    if found.tags["kdflow.dataset_digest"] != data.digest:
        raise KdflowError(
            f"model: expected a model of {data.name} (digest {data.digest}), got run {source} on"
            f" {found.params['dataset']} (digest {found.tags['kdflow.dataset_digest']})"
        )
    return found


def find_or_train(source: str, data: Dataset, holdout: float) -> tracking.FoundRun:
    """As `find`, but a teacher that does not exist yet is trained at its default settings."""
    if found := find(source, data, holdout):
        print(f"teacher: found {describe(found)}")
        return found
    config = _default_config(source, data, holdout)
    print(f"teacher: no {config.arch} at its default settings in the store; training one")
    started = time.perf_counter()
    made = tracking.get_run(run(config, data).run_id, "model")
    print(f"teacher: trained {describe(made)} in {time.perf_counter() - started:.1f} s")
    return made


def describe(found: tracking.FoundRun) -> str:
    """A model run in words, with the commit that made it if that is not the one running."""
    network = found.params.get("arch") or found.params["student"]
    accuracy = found.metrics.get("test_accuracy")
    words = f"{network}, run {found.run_id}" + (
        f", test accuracy {accuracy:.4f}" if accuracy else ""
    )
    made_by, running = found.tags.get("mlflow.source.git.commit"), tracking.current_commit()
    if made_by and running and made_by != running:
        words += f" (made by commit {made_by[:8]}; this is {running[:8]})"
    return words


def _default_config(source: str, data: Dataset, holdout: float) -> TeacherConfig:
    arch = default_teacher(data.name) if source == "auto" else source
    return TeacherConfig(dataset=data.name, holdout=holdout, arch=arch)  # type: ignore[call-arg,arg-type]
