"""Models that classify: kdflow's own, the one that comes with it, and a user's."""

from typing import Any

import numpy as np

from kdflow import bundle, network
from kdflow.artifacts import logits
from kdflow.config.base import validated
from kdflow.config.training import default_teacher, is_automatic
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate.metrics import predict_logits
from kdflow.needs import Lookup, ModelOf
from kdflow.results.records import TrainedModel, verified_model
from kdflow.tracking import artifacts
from kdflow.tracking.find import FoundRun, find_runs, get_run

# The steps whose model classifies; a hint run's upper layers are untrained.
CLASSIFIES = ("teacher", "baseline", "distill")
TRIED_IMAGES = 100


def named(need: ModelOf, dataset: Dataset) -> TrainedModel | None:
    """A model that kdflow did not train: a `.keras` file, `runs:/...` or `models:/...`."""
    is_path = need.source.endswith(".keras") or need.source.startswith(("runs:/", "models:/"))
    return _brought(need.source, dataset) if is_path else None


def candidates(need: ModelOf, lookup: Lookup) -> list[FoundRun]:
    """The runs that hold the model."""
    dataset = lookup.dataset
    if bundle.fits(need.source, dataset, need.holdout):
        return find_runs({"kdflow.key": bundle.key()})
    if is_automatic(need.source):
        step, values = _at_default_settings(need, dataset)
        return lookup.same_runs(step, validated(lookup.steps[step].config, values))
    run = get_run(need.source)
    _check(run, need, dataset)
    return [run]


def opened(need: ModelOf, run: FoundRun, dataset: Dataset) -> TrainedModel:
    """The model of a run, verified."""
    return verified_model(run)


def made_by(need: ModelOf, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    """The bundled teacher is imported; any other is trained at its default settings."""
    if bundle.fits(need.source, dataset, need.holdout):
        return "bundled", bundle.described()["config"]
    if bundle.is_meant(need.source, dataset):
        print(
            "teacher: the one that comes with kdflow was trained with"
            f" holdout={bundle.described()['config']['holdout']}, not {need.holdout}; it does not"
            " fit"
        )
    return _at_default_settings(need, dataset)


def _at_default_settings(need: ModelOf, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    arch = default_teacher(dataset.name) if need.source == "auto" else need.source
    return "teacher", {**dataset.parameters, "holdout": need.holdout, "arch": arch}


def _check(run: FoundRun, need: ModelOf, dataset: Dataset) -> None:
    if run.step not in CLASSIFIES:
        raise KdflowError(
            f"expected a run that logged a model that classifies, got the {run.step} run"
            f" {run.run_id}"
        )
    if run.tags["kdflow.dataset_digest"] != dataset.digest:
        raise KdflowError(
            f"expected a model of {dataset.name} (digest {dataset.digest}), got run {run.run_id} on"
            f" {run.params['dataset']} (digest {run.tags['kdflow.dataset_digest']})"
        )
    if need.holdout and float(run.params["holdout"]) != need.holdout:
        raise KdflowError(
            f"expected a model trained with holdout={need.holdout}, got run {run.run_id} with"
            f" holdout={run.params['holdout']}"
        )


def _brought(source: str, dataset: Dataset) -> TrainedModel:
    """A user's model.

    Raises:
        KdflowError: it cannot be loaded without running code that it carries, does not take the
            data set's images, or does not give one logit per class.
    """
    model = artifacts.load_keras(source)
    tried = dataset.x_test[:TRIED_IMAGES]
    try:
        outputs = predict_logits(model, tried)
    except Exception as error:  # a foreign network can fail in any way
        reason = " ".join(str(error).split())
        raise KdflowError(
            f"expected a network that takes images of shape {dataset.image_shape}, got {source}:"
            f" {reason}"
        ) from error
    if outputs.shape != (len(tried), dataset.classes):
        raise KdflowError(
            f"expected a network that gives {dataset.classes} logits per image, got {source}, which"
            f" gives the shape {outputs.shape} for {len(tried)} images"
        )
    if not np.isfinite(outputs).all():
        raise KdflowError(
            f"expected a network that gives finite logits, got {source}, which does not"
        )
    if logits.are_probabilities(outputs):
        raise KdflowError(
            f"expected a network that gives logits, got {source}, which gives probabilities (remove"
            " the softmax from its last layer)"
        )
    weights_sha256 = network.weights_sha256(model)
    return TrainedModel(f"sha256:{weights_sha256}", model, weights_sha256, None, source)
