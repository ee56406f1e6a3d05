"""Teachers' logits: an export's, of one view or more, or a folder's."""

from pathlib import Path
from typing import Any

from kdflow import bundle
from kdflow.artifacts import logits
from kdflow.artifacts.probabilities import as_logits
from kdflow.config.precision import AskedPrecision, resolved
from kdflow.config.training import is_automatic
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, UnfitError
from kdflow.evaluate.chance import against_chance
from kdflow.naming import is_hash, named_by_hash
from kdflow.needs import LogitsOf, Lookup, ModelOf
from kdflow.results import models
from kdflow.results.own_model import (
    chance_level_error,
    check_pixels,
    described_order,
    is_own_model,
    warn_of_other_order,
)
from kdflow.results.records import TeacherLogits, remark
from kdflow.tags import (
    AVERAGED_TAG,
    DATASET_DIGEST_TAG,
    MIRRORED,
    PRECISION_TAG,
    STEP_TAG,
    upstream_tag,
)
from kdflow.tracking.artifacts import logits_folder
from kdflow.tracking.find import FoundRun, find_runs, get_run


def named(need: LogitsOf, dataset: Dataset) -> TeacherLogits | None:
    """The logits in a folder, or the logarithm of the probabilities there."""
    check_pixels(need.source, need.reading)
    is_probabilities = need.reading.values == "probabilities"
    if is_automatic(need.source) or is_own_model(need.source) or not logits.is_folder(need.source):
        if is_probabilities:
            raise KdflowError(f"expected a folder with values=probabilities, got {need.source}")
        return None
    folder = Path(need.source)
    if is_probabilities:
        folder = as_logits(folder, dataset, need.views.view_set)
    read = logits.read(folder, dataset, **_which(need))
    _check_holdout(read.manifest.holdout, need.holdout)
    taught = TeacherLogits(named_by_hash(read.manifest_sha256), read, need.views.count)
    _check_against_chance(taught, need, dataset)
    return taught


def candidates(need: LogitsOf, lookup: Lookup) -> list[FoundRun]:
    """The export that the user named, or the exports of the model."""
    if is_own_model(need.source):
        source = lookup.plan(model_of(need)).result.source
        return _exports(source, need, lookup.dataset)
    if not is_automatic(need.source) and get_run(need.source).step == "export_logits":
        return [get_run(need.source)]
    of_models = models.runs_of(model_of(need), lookup)
    return [export for run in of_models for export in _exports(run.run_id, need, lookup.dataset)]


def _exports(source: str, need: LogitsOf, dataset: Dataset) -> list[FoundRun]:
    tags = {
        STEP_TAG: "export_logits",
        upstream_tag("model"): source,
        DATASET_DIGEST_TAG: dataset.digest,
    }
    averaged = MIRRORED if need.averaged else ""
    wanted = resolved(_precision(need, dataset)), need.views.view_set, averaged
    has_views = [run for run in find_runs(tags) if run.views.count >= need.views.count]
    return [run for run in has_views if _how(run) == wanted]


def _how(run: FoundRun) -> tuple[str, str, str]:
    """What an export computed in, which set its views are of, and how it averaged."""
    precision = run.tags.get(PRECISION_TAG, "float32")
    return precision, run.views.view_set, run.tags.get(AVERAGED_TAG, "")


def _precision(need: LogitsOf, dataset: Dataset) -> AskedPrecision:
    """What the logits are computed in; the bundled ones keep the precision that they were computed
    in."""
    return bundle.precision() if _are_bundled(need, dataset) else need.precision


def _are_bundled(need: LogitsOf, dataset: Dataset) -> bool:
    return bundle.has_logits(need.source, dataset, need.holdout, **_which(need))


def verified(need: LogitsOf, run: FoundRun, dataset: Dataset) -> TeacherLogits:
    """The logits of an export, verified; one with more views than needed serves."""
    read = logits.read(logits_folder(run), dataset, **_which(need), in_order=True)
    _check_holdout(read.manifest.holdout, need.holdout)
    taught = TeacherLogits(run.run_id, read, need.views.count, remark(run))
    _check_against_chance(taught, need, dataset)
    return taught


def made_by(need: LogitsOf, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    """An export of the model. The bundled logits come with all their views."""
    model = model_of(need)
    return "export_logits", {
        **dataset.parameters,
        "holdout": model.holdout,
        "model": need.source,
        "views": bundle.VIEWS.count if _are_bundled(need, dataset) else need.views.count,
        "view_set": need.views.view_set,
        "averaged": need.averaged,
        "precision": need.precision,
        "pixels": need.reading.pixels,
        "allow_weak_teacher": need.reading.allow_weak,
    }


def model_of(need: LogitsOf) -> ModelOf:
    """The need for the model that computes these logits. A run's model keeps its own holdout."""
    if is_automatic(need.source) or is_own_model(need.source):
        return ModelOf(need.source, need.holdout, reading=need.reading, precision=need.precision)
    trained_with = get_run(need.source).holdout
    _check_holdout(trained_with, need.holdout)
    return ModelOf(need.source, trained_with, reading=need.reading, precision=need.precision)


def _which(need: LogitsOf) -> dict[str, Any]:
    """Which logits are needed, under the names that `artifacts.logits.read` takes."""
    return {"views": need.views, "averaged": need.averaged}


def _check_against_chance(taught: TeacherLogits, need: LogitsOf, dataset: Dataset) -> None:
    """Refuse a teacher that is no better than chance on the training images, unless the user
    accepts one."""
    predicted, name = taught.logits.train[0].argmax(axis=-1), taught.logits.manifest.network
    result = against_chance(predicted, dataset.y_train)
    if not (result.is_better or need.reading.allow_weak):
        raise chance_level_error(
            result,
            name,
            described_order(predicted, dataset.y_train, dataset)
            or "it has not learnt, or its logits are of other images, classes or another order",
        )
    if is_hash(taught.source):
        warn_of_other_order(name, predicted, dataset.y_train, dataset)


def _check_holdout(trained_with: float | None, holdout: float) -> None:
    """With holdout=0 there is no validation to keep apart; otherwise both must share one split."""
    if trained_with is None:
        print(
            "logits: the manifest does not state the teacher's holdout; if the teacher was trained"
            " on validation or test images, its accuracy there, and the student's, is not reliable"
        )
    elif holdout and trained_with != holdout:
        raise UnfitError(
            f"expected a teacher trained with holdout={holdout}, as this run is, so that"
            f" neither trains on the other's validation images; got holdout={trained_with}"
        )
