"""What a deployed network was made of, as far as the tracking store knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.config.reading import Reading
from kdflow.config.training import is_automatic
from kdflow.errors import KdflowError, NoRoomError, UnreachableError
from kdflow.naming import is_hash
from kdflow.needs import LogitsOf, ModelOf, Need
from kdflow.tags import AVERAGED_TAG, upstream_tag

if TYPE_CHECKING:
    from kdflow.results.records import TrainedModel

NO_HOLDOUT = 0  # it is timed and compared, and may have been trained with another one
NOT_KNOWN = "not known"
LOGITS, TEACHER = upstream_tag("logits"), upstream_tag("teacher")  # tags of what was made of it


def upstream_needs(source: str) -> dict[str, Need]:
    """The `logits` that taught the run `source` and their `teacher`, as far as they are runs."""
    from kdflow.results.own_model import is_own_model
    from kdflow.tracking.find import MODELS, get_run

    if is_automatic(source) or is_own_model(source):
        return {}
    distilled = get_run(source, MODELS)
    try:
        upstream = lineage(source)
        averaged = LOGITS in upstream and AVERAGED_TAG in get_run(upstream[LOGITS]).tags
    except (UnreachableError, NoRoomError):
        raise
    except KdflowError as error:  # the export may have been deleted since
        print(f"logits, teacher: {error}; deploy goes on without them")
        return {}
    needs: dict[str, Need] = {}
    if logits := upstream.get(LOGITS):
        reading = Reading(allow_weak=True)  # they have taught it already
        needs["logits"] = LogitsOf(
            logits, distilled.holdout, distilled.views, averaged, reading=reading, optional=True
        )
    if teacher := upstream.get(TEACHER):
        needs["teacher"] = ModelOf(teacher, NO_HOLDOUT, optional=True)
    return needs


def lineage(source: str) -> dict[str, str]:
    """What a run was distilled from, as tags: its export of logits, and that export's model, as far
    as they are runs."""
    logits, teacher = _upstream(source)
    named = {LOGITS: logits, TEACHER: teacher}
    return {tag: run_id for tag, run_id in named.items() if run_id and not is_hash(run_id)}


def _upstream(source: str) -> tuple[str | None, str | None]:
    """The logits that a run learnt from, and their model: each a run or a hash, None if neither is
    recorded."""
    from kdflow.tracking.find import get_run

    logits = get_run(source).tags.get(upstream_tag("teacher"))
    if logits is None or is_hash(logits):
        return logits, None
    return logits, get_run(logits).tags.get(upstream_tag("model"))


def origin(model: TrainedModel) -> dict[str, str]:
    """How a network was trained and what taught it, in words, by what it is called on a page."""
    from kdflow.tracking.find import get_run

    if is_hash(model.source):
        return {
            "Training": f"{NOT_KNOWN}: {model.words} is a model that no run of kdflow trained",
            "Distilled from": NOT_KNOWN,
        }
    try:
        run = get_run(model.source)
    except KdflowError as error:  # the store may not answer any more
        return {"Training": f"run {model.source} ({error})", "Distilled from": NOT_KNOWN}
    made = {"Training": _in_words(model.source)}
    if upstream_tag("teacher") in run.tags:
        made |= {
            "Temperature T": run.params["temp"],
            "alpha, the weight of the soft term": run.params["alpha"],
            **_teaching(model.source),
        }
    else:
        made["Distilled from"] = "nothing: it learnt from labels alone"
    if start := run.tags.get(upstream_tag("init")):
        made["Lower layers start from"] = _in_words(start)
    made["All parameters"] = ", ".join(f"{name}={value}" for name, value in run.params.items())
    return made


def _teaching(source: str) -> dict[str, str]:
    try:
        logits, teacher = _upstream(source)
    except KdflowError as error:  # the runs may have been deleted since
        return {"Distilled from": f"{NOT_KNOWN}: {error}"}
    return {"Distilled from": _in_words(teacher), "Logits": _in_words(logits)}


def _in_words(source: str | None) -> str:
    from kdflow.tracking.find import get_run

    if source is None:
        return f"{NOT_KNOWN}: its logits were not made by a run of kdflow"
    if is_hash(source):
        return f"not made by a run of kdflow: {source}"
    try:
        run = get_run(source)
    except KdflowError as error:
        return f"run {source} ({error})"
    accuracy = run.metrics.get("test_accuracy")
    result = "" if accuracy is None else f", test accuracy {accuracy:.4f}"
    return f"{run.tags['mlflow.runName']}, run {source}{result}"
