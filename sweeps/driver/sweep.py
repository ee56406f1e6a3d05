"""A sweep, told in order: the study, its logits, its trials, its finals, and what came out."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from kdflow import data, logits, tracking
from kdflow.config import DistillConfig, canonical, is_automatic
from kdflow.errors import KdflowError
from kdflow.steps import check_fit, export_logits, hint
from sweeps.driver import finals, pictures, storage, workers
from sweeps.driver.config import SweepConfig, with_values
from sweeps.driver.study import Study
from sweeps.driver.trials import Order, max_views

UPSTREAM = "upstream"  # on a study: the logits that teach in it, and what `init` stands for


def run(config: SweepConfig, file: Study, base: DistillConfig) -> str:
    """Search, have the finals, and log the outcome; returns the id of the study's parent run.

    Args:
        base: what all trials have in common.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the steps tell what there is to tell
    base = _wherever_it_runs(base)
    with_values(base, {"seed": base.seed + config.repeats})  # the finals' last
    if file.points and config.trials > len(file.points):
        raise KdflowError(
            f"trials: expected at most {len(file.points)}, the points of the grid, got"
            f" {config.trials}"
        )
    url = storage.parsed(config.storage)
    with workers.hired(config) as carry_out:
        tracking.open_store()
        opened = storage.open_storage(url, config.heartbeat)
        images = data.load(base.dataset)
        check_fit(base, images)
        for searched in file.space:
            for value in file.extremes(searched):
                check_fit(with_values(base, {searched: value}), images)
        wanted = with_values(base, {"views": max_views(file, base)})
        found = export_logits.find(wanted, images)
        teacher_words = found.source if found and logits.is_folder(base.teacher) else base.teacher
        name = config.study_name
        if name == "auto":
            name = f"{config.study} {Path(base.dataset).name}"
        described = _description(file, base, images) | {
            "teacher": teacher_words,
            "heartbeat": config.heartbeat,  # or one process would take another's trials for dead
        }
        study, is_new = storage.open_study(opened, name, described)
        with _parent(study, is_new, config, file, base, images) as parent:
            print(f"{name}: {config.trials} trials; the study's own budget: {file.cost}")
            points = file.points[: config.trials]

            def make_upstream() -> dict[str, Any]:
                tracking.end_abandoned(parent, {})  # of a process that died in making it
                storage.enqueue(study, points)  # before a process that joins looks at the queue
                teacher = found or export_logits.export(wanted, images, child=True)
                return {"teacher": teacher.source, "initial": _initial(file, base, images)}

            upstream = storage.agreed(study, UPSTREAM, is_new, make_upstream)
            print(f"logits: {upstream['teacher']}; no trial loads a teacher")
            storage.enqueue(study, points)  # what is new, where there are to be more of them
            order = Order(
                study=config.study,
                name=name,
                storage=storage.text_of(url),
                heartbeat=config.heartbeat,
                sampler_seed=config.sampler_seed,
                config=_taught_by(upstream["teacher"], base),
                initial=upstream["initial"],
                parent=parent,
                budget=None if file.points else config.trials,
            )
            carry_out(order)
            settings = finals.best_settings(study, config.best)
            _log_trials(study, file)
            tracking.set_tags({f"best.{key}": canonical(it) for key, it in settings[0].items()})
            _hold_finals(study, order, config, settings, carry_out)
    return parent


def _hold_finals(
    study: optuna.Study,
    order: Order,
    config: SweepConfig,
    settings: list[dict[str, Any]],
    carry_out: workers.CarryOut,
) -> None:
    trainings = finals.trainings(order, settings, config.repeats)
    order = replace(order, name=finals.name_of(order, trainings), budget=None, finals=trainings)
    held = finals.create(order)
    print(f"finals: {len(settings)} of the settings, {config.repeats} seeds, and baselines")
    carry_out(order)
    finals.count(study, held)
    table = finals.results(order, held)
    tracking.log_text(table.to_csv(index=False), "finals.csv")
    finals.log_verdicts(settings, finals.verdicts(table, config.repeats))


def _log_trials(study: optuna.Study, file: Study) -> None:
    """The trials as a table and as pictures, and what they came to, on the open run."""
    table = study.trials_dataframe(
        attrs=("number", "state", "value", "params", "duration", "user_attrs")
    )
    tracking.log_text(table.to_csv(index=False), "trials.csv")
    pictures.log(study, _mapped(file))
    trials = storage.counted(study)
    epochs = sum(len(trial.intermediate_values) for trial in trials)
    states = Counter(trial.state for trial in trials)
    figures = {
        "best_val_accuracy": study.best_value,
        "trials_complete": states[TrialState.COMPLETE],
        "trials_pruned": states[TrialState.PRUNED],
        "trials_failed": states[TrialState.FAIL],
        "epochs_spent": epochs,
    }
    tracking.log_metrics({key: float(value) for key, value in figures.items()})
    print(
        f"{study.study_name}: {states[TrialState.COMPLETE]} of {len(trials)} trials ran to their"
        f" end, {epochs} epochs; best validation accuracy {study.best_value:.4f} with"
        f" {', '.join(f'{key}={value}' for key, value in study.best_params.items())}"
    )


def _mapped(file: Study) -> list[str]:
    """The two parameters to draw a map of: temperature and alpha, or else the first two."""
    usual = [name for name in ("temp", "alpha") if name in file.space]
    return usual if len(usual) == 2 else list(file.space)[:2]


@contextlib.contextmanager
def _parent(
    study: optuna.Study,
    is_new: bool,
    config: SweepConfig,
    file: Study,
    base: DistillConfig,
    images: data.Dataset,
) -> Iterator[str]:
    """The run that all of a study's runs are children of, open; yields its id. A study that goes on
    goes on under its first one. What is searched is no parameter of it."""
    first = None if is_new else storage.parent_of(study)
    values = config.model_dump() | base.model_dump(exclude={"evaluate_test", *file.space})
    values["storage"] = str(storage.parsed(config.storage))  # without a password
    params = {name: canonical(value) for name, value in values.items()}
    with contextlib.ExitStack() as runs:
        if first is None:
            run_id = runs.enter_context(tracking.open_run(study.study_name, "sweep", images))
            study.set_user_attr(storage.PARENT, run_id)
            tracking.log_params(params)
            tracking.log_json(values, "config.json")
            yield run_id
            return
        if not tracking.exists(first):
            raise KdflowError(
                f"study_name: expected a study whose run is in the store, got {study.study_name!r}"
                f" of run {first}; give this one another study_name"
            )
        print(f"{study.study_name}: goes on under run {first}")
        if "MLFLOW_RUN_ID" in os.environ:  # `mlflow run` has opened one more
            runs.enter_context(tracking.open_run(study.study_name, "sweep", images))
            tracking.log_params(params)
            tracking.set_tags({"kdflow.upstream.sweep": first})
        runs.enter_context(tracking.reopened(first))
        yield first


def _description(file: Study, base: DistillConfig, images: data.Dataset) -> dict[str, Any]:
    """What makes trials of one study comparable: it has to stay the same when the study goes on."""
    fixed = base.model_dump(exclude={"dataset", "teacher", "evaluate_test", *file.space})
    return {**file.described_space(), **fixed, "the data set's digest": images.digest}


def _initial(file: Study, base: DistillConfig, images: data.Dataset) -> dict[str, str]:
    """For each value of `init` in the trials, what it stands for; hint runs are made if need be."""
    meant = {"none": "none"}
    for value in getattr(file.space.get("init"), "choices", [base.init]):
        if value != "none":
            config = with_values(base, {"init": value})
            initial = hint.find_initial(config, images) or hint.make_initial(config, images)
            assert initial
            meant[value] = initial.source
    return meant


def _taught_by(source: str, base: DistillConfig) -> DistillConfig:
    """The trials' config with the very logits that were found or made, so that no worker looks for
    others; a folder is named by its content, and stays named by its path."""
    return base if source.startswith("sha256:") else with_values(base, {"teacher": source})


def _wherever_it_runs(base: DistillConfig) -> DistillConfig:
    """Paths as absolute ones: a worker may have another working folder."""
    paths = {}
    if base.dataset.endswith(".npz"):
        paths["dataset"] = str(Path(base.dataset).resolve())
    if not is_automatic(base.teacher) and logits.is_folder(base.teacher):
        paths["teacher"] = str(Path(base.teacher).resolve())
    return with_values(base, paths)
