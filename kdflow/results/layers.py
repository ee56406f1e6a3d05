"""The lower layers of a student that a hint run has trained."""

from typing import Any

from kdflow import network
from kdflow.artifacts import logits
from kdflow.config.training import is_automatic
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, about
from kdflow.features import features
from kdflow.naming import is_hash
from kdflow.needs import LayersOf, Lookup
from kdflow.results.own_model import is_own_model
from kdflow.results.records import TrainedModel, current_model
from kdflow.tags import GUIDED_LAYER_TAG, upstream_tag
from kdflow.tracking.find import FoundRun, get_run


def named(need: LayersOf, dataset: Dataset) -> None:
    """None: no path can name a hint run's layers."""


def candidates(need: LayersOf, lookup: Lookup) -> list[FoundRun]:
    """The hint run that the user named, or those at the default settings."""
    if need.source == "auto":
        return lookup.same_runs(*made_by(need, lookup.dataset))
    run = get_run(need.source, "none, auto or the id of a hint run")
    if run.step != "hint":
        raise KdflowError(f"expected a hint run, got the {run.step} run {run.run_id}")
    wanted_and_found: dict[str, tuple[Any, Any]] = {
        "data set digest": (lookup.dataset.digest, run.dataset_digest),
        "holdout": (need.holdout, run.holdout),
    }
    if not network.record_of(need.student).is_own:  # whose architecture is compared, not its name
        wanted_and_found["student"] = need.student, run.params["student"]
    for what, (expected, got) in wanted_and_found.items():
        if expected != got:
            raise KdflowError(
                f"expected a hint run with the {what} {expected}, got run {run.run_id} with {got}"
            )
    return [run]


def verified(need: LayersOf, run: FoundRun, dataset: Dataset) -> TrainedModel:
    """The student up to its guided layer. The layers above have the random weights of the hint
    run's seed, which are not for the distillations that start from it."""
    student = current_model(run, need.student, dataset)
    guided = features(student.network, run.tags[GUIDED_LAYER_TAG])
    return student._replace(
        network=guided,
        weights_sha256=network.weights_sha256(guided),
        words=f"hint run of {student.words}",
    )


def made_by(need: LayersOf, dataset: Dataset) -> tuple[str, dict[str, Any]]:
    """The hint run of this student and teacher at its default settings."""
    with about("teacher"):
        teacher = model_source(need.teacher)
    return "hint", {
        **dataset.parameters,
        "holdout": need.holdout,
        "student": need.student,
        "teacher": teacher,
        "precision": need.precision,
        "pixels": need.reading.pixels,
        "allow_weak_teacher": need.reading.allow_weak,
    }


def model_source(source: str) -> str:
    """What names the teacher's model where `source` names its logits."""
    if is_automatic(source) or is_own_model(source):
        return source
    if logits.is_folder(source):
        raise KdflowError(
            "expected auto, a network's name or a run id, since hints come from a layer of"
            f" the model; got the folder of logits {source}"
        )
    run = get_run(source)
    if run.step != "export_logits":
        return source
    model = run.tags.get(upstream_tag("model"), "none")
    if model == "none" or is_hash(model):
        raise KdflowError(
            "expected the teacher's model, since hints come from a layer of it; got"
            f" {source}, the export of a model that kdflow does not keep: name its file"
        )
    return model
