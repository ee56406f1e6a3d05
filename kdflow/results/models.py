"""Models that classify: kdflow's own, the one that comes with it, and a user's."""

from dataclasses import replace
from typing import Any

from kdflow import bundle
from kdflow.config.base import DATASET_OPTIONS
from kdflow.config.precision import other_precision, resolved
from kdflow.config.training import default_teacher, is_automatic
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.needs import Lookup, ModelOf
from kdflow.results import own_model
from kdflow.results.own_model import check_pixels, is_own_model
from kdflow.results.records import TrainedModel, verified_model
from kdflow.tags import KEY_TAG
from kdflow.tracking.find import MODELS, FoundRun, find_runs, get_run
from kdflow.tracking.models import check_classifies


def named(need: ModelOf, dataset: Dataset) -> TrainedModel | None:
    """A model that kdflow did not train: a `.keras` or `.h5` file, `runs:/...` or `models:/...`."""
    if is_own_model(need.source):
        return own_model.read(need.source, dataset, need.reading)
    check_pixels(need.source, need.reading)
    return None


def candidates(need: ModelOf, lookup: Lookup) -> list[FoundRun]:
    """The runs that hold the model; says so if the only ones are of another precision."""
    found = runs_of(need, lookup)
    if not found and is_automatic(need.source):
        other = replace(need, precision=other_precision(need.precision))
        if others := runs_of(other, lookup):
            print(
                f"teacher: {len(others)} earlier run(s) in {other.precision} are not used, as this"
                f" run computes in {resolved(need.precision)}; to use one, set"
                f" precision={other.precision}, or name it by its id"
            )
    return found


def runs_of(need: ModelOf, lookup: Lookup) -> list[FoundRun]:
    """The runs that hold the model."""
    dataset = lookup.dataset
    if bundle.fits(need.source, dataset, need.holdout):
        return find_runs({KEY_TAG: bundle.key()})
    if is_automatic(need.source):
        return lookup.same_runs(*_at_default_settings(need, dataset))
    run = get_run(need.source, MODELS)
    _check(run, need, dataset)
    return [run]


def verified(need: ModelOf, run: FoundRun, dataset: Dataset) -> TrainedModel:
    """The model of a run, verified."""
    return verified_model(run)


def made_by(need: ModelOf, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    """The bundled teacher is imported; any other is trained at its default settings."""
    if bundle.fits(need.source, dataset, need.holdout):
        return "bundled", bundle.metadata()["config"]
    if bundle.is_meant(need.source, dataset):
        print(
            "teacher: the bundled teacher was trained with"
            f" holdout={bundle.metadata()['config']['holdout']}, not {need.holdout}; it is not"
            " used"
        )
    return _at_default_settings(need, dataset)


def _at_default_settings(need: ModelOf, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    arch = default_teacher(dataset.name) if need.source == "auto" else need.source
    return "teacher", {
        **dataset.parameters,
        "holdout": need.holdout,
        "arch": arch,
        "precision": need.precision,
    }


def _check(run: FoundRun, need: ModelOf, dataset: Dataset) -> None:
    check_classifies(run)
    if run.dataset_digest != dataset.digest:
        raise KdflowError(
            f"expected a model of {dataset.name} (digest {dataset.digest}), got run {run.run_id} on"
            f" {run.params['dataset']} (digest {run.dataset_digest}): other images, or read with"
            f" another {', '.join(sorted(DATASET_OPTIONS))}"
        )
    if need.holdout and run.holdout != need.holdout:
        raise KdflowError(
            f"expected a model trained with holdout={need.holdout}, got run {run.run_id} with"
            f" holdout={run.params['holdout']}"
        )
