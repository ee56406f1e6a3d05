"""A sweep from start to end: the plan, the study, its logits, its trials, its finals, the
results."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from kdflow.catalogue.datasets import find_dataset
from kdflow.catalogue.networks import find_network
from kdflow.catalogue.networks.own import APPLICATIONS
from kdflow.config.base import DATASET_OPTIONS, HOW_TO_RUN, canonical, neutral_value
from kdflow.config.objective import WEIGHTS
from kdflow.config.training import is_automatic
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, about
from kdflow.naming import run_name
from kdflow.needs import Found, Need, Planned
from kdflow.reuse import Resolver
from kdflow.steps.checks import check_network
from kdflow.steps.distill import DistillConfig, layers_of, logits_needed
from kdflow.steps.estimate import about_how_long
from kdflow.steps.run import ALL_STEPS, load
from kdflow.tracking import find, runs, store
from kdflow.tracking.run import Run
from sweeps.driver import finals, pictures, sharing, storage, trial_queue, workers
from sweeps.driver.config import SweepConfig, with_values
from sweeps.driver.study import Study
from sweeps.driver.trials import Order, max_views

UPSTREAM = "upstream"  # on a study: its teacher's logits, and the hint run of each `init`


def run(config: SweepConfig, file: Study, base: DistillConfig) -> str | None:
    """Search, run the finals and log the results; returns the id of the study's parent run, or None
    if only the plan was asked for.

    Args:
        base: what all trials have in common.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the steps print what matters
    base = _with_absolute_paths(base)
    with_values(base, {"seed": base.seed + config.repeats})  # the finals' last
    if file.points and config.trials > len(file.points):
        raise KdflowError(
            f"trials: expected at most {len(file.points)}, the points of the grid, got"
            f" {config.trials}"
        )
    url = storage.parsed(config.storage)
    with workers.start_workers(config) as carry_out:
        store.open_store()
        dataset = load(base.dataset, base.holdout, base.dataset_options)
        resolver = Resolver(ALL_STEPS, dataset, config.reuse)
        upstream = _needs(file, base, dataset)
        plans = [resolver.plan(need) for need in upstream.values()]
        print("plan:", *resolver.lines(plans, about_how_long(dataset)), sep="\n")
        if base.plan_only:
            return None
        name = config.study_name
        if name == "auto":
            name = f"{config.study} {Path(base.dataset).name}"
        opened = storage.open_storage(url, config.heartbeat)
        study, is_new = sharing.open_study(
            opened, name, _description(config, file, base, dataset, plans[0]), _added(file, base)
        )
        with _parent(study, is_new, config, file, base, dataset) as parent:
            print(f"{name}: {config.trials} trials; the study's own budget: {file.cost}")
            resolver.parent = parent.run_id
            points = file.points[: config.trials]

            def make_upstream() -> dict[str, Any]:
                runs.end_abandoned(parent.run_id, {})  # of a process that died in making it
                trial_queue.enqueue(study, points)  # before a process that joins reads the queue
                made = {role: resolver.obtain(need).source for role, need in upstream.items()}
                return {"teacher": made.pop("teacher"), "initial": {"none": "none", **made}}

            shared = sharing.agreed(study, UPSTREAM, is_new, make_upstream)
            print(f"logits: {shared['teacher']}; no trial loads a teacher")
            trial_queue.enqueue(study, points)  # the new ones, of a larger budget than before
            order = Order(
                study=config.study,
                name=name,
                storage=storage.text_of(url),
                heartbeat=config.heartbeat,
                sampler_seed=config.sampler_seed,
                config=_taught_by(shared["teacher"], base),
                initial=shared["initial"],
                parent=parent.run_id,
                budget=None if file.points else config.trials,
                reuse=config.reuse,
            )
            carry_out(order)
            settings = finals.best_settings(study, config.best)
            _log_trials(parent, study, file)
            parent.set_tags({f"best.{key}": canonical(it) for key, it in settings[0].items()})
            _hold_finals(parent, study, order, config, settings, carry_out)
    return parent.run_id


def _needs(file: Study, base: DistillConfig, dataset: Dataset) -> dict[str, Need]:
    """What all trials share: the teacher's logits, with the views of the trial that needs most, and
    for each value of `init` the hint run that it means.

    Raises:
        KdflowError: a trial cannot be trained on these images.
    """
    for name in file.space:
        for value in file.extremes(name):
            config = with_values(base, {name: value})
            with about("student"):
                check_network(config, dataset, {})
    needed = logits_needed(base, max_views(file, base))
    needs: dict[str, Need] = {"teacher": needed}
    for value in getattr(file.space.get("init"), "choices", [base.init]):
        if value != "none":
            needs[value] = layers_of(base, value)
    return needs


def _hold_finals(
    parent: Run,
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
    finals.count(study, held, parent)
    table = finals.results(order, held)
    parent.log_text(table.to_csv(index=False), "finals.csv")
    finals.log_verdicts(parent, settings, finals.verdicts(table, config.repeats))


def _log_trials(parent: Run, study: optuna.Study, file: Study) -> None:
    """Log the trials as a table and as pictures, and the best result, to the parent run."""
    table = study.trials_dataframe(
        attrs=("number", "state", "value", "params", "duration", "user_attrs")
    )
    parent.log_text(table.to_csv(index=False), "trials.csv")
    pictures.log(parent, study, _mapped(file))
    trials = trial_queue.counted(study)
    epochs = sum(len(trial.intermediate_values) for trial in trials)
    states = Counter(trial.state for trial in trials)
    figures = {
        "best_val_accuracy": study.best_value,
        "trials_complete": states[TrialState.COMPLETE],
        "trials_pruned": states[TrialState.PRUNED],
        "trials_failed": states[TrialState.FAIL],
        "epochs_spent": epochs,
    }
    parent.log({key: float(value) for key, value in figures.items()})
    print(
        f"{study.study_name}: {states[TrialState.COMPLETE]} of {len(trials)} trials are complete,"
        f" {epochs} epochs; best validation accuracy {study.best_value:.4f} with"
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
    dataset: Dataset,
) -> Iterator[Run]:
    """The run that all of a study's runs are children of. A study that is resumed keeps its first
    one. Its owner ends it; a process that joins logs to it, and ends it only once it has no owner
    any more. What is searched is no parameter of it."""
    first = None if is_new else sharing.parent_of(study)
    name = run_name(study.study_name)
    hidden = {"evaluate_test", *file.space}
    of_trials = {name: value for name, value in base.used().items() if name not in hidden}
    values = config.used() | of_trials
    values["storage"] = str(storage.parsed(config.storage))  # without a password
    params = {name: canonical(value) for name, value in values.items()}
    with contextlib.ExitStack() as opened:
        is_owner = opened.enter_context(sharing.ownership(study))
        if first is None:
            run = opened.enter_context(runs.open_run(name, "sweep", dataset, {}))
            study.set_user_attr(trial_queue.PARENT, run.run_id)
            run.log_params(params)
            run.log_json(values, "config.json")
            yield run
            return
        if not find.exists(first):
            raise KdflowError(
                f"study_name: expected a study whose run is in the store, got {study.study_name!r}"
                f" of run {first}; give this one another study_name"
            )
        print(f"{study.study_name}: {'resumes' if is_owner else 'joins'} run {first}")
        if "MLFLOW_RUN_ID" in os.environ:  # `mlflow run` has opened one more
            asked = opened.enter_context(runs.open_run(name, "sweep", dataset, {}))
            asked.log_params(params)
            asked.set_tags({"kdflow.upstream.sweep": first})
        if is_owner:
            yield opened.enter_context(runs.reopened(first))
            return
        with runs.joined(first) as run:
            yield run
        if opened.enter_context(sharing.ownership(study)):  # its owner has ended or died
            opened.enter_context(runs.reopened(first))


def _description(
    config: SweepConfig,
    file: Study,
    base: DistillConfig,
    dataset: Dataset,
    teacher: Found | Planned,
) -> dict[str, Any]:
    """What makes trials of one study comparable: it has to stay the same when it is resumed."""
    source = teacher.result.source if teacher.result else base.teacher
    is_folder = source.startswith("sha256:")
    return {
        **file.described_space(),
        **file.described_search(),
        **_fixed(file, base),
        "the data set's digest": dataset.digest,
        "teacher": source if is_folder else base.teacher,
        "heartbeat": config.heartbeat,  # or one process would mark another's trials failed
    }


def _added(file: Study, base: DistillConfig) -> dict[str, Any]:
    """The part of a description that an older study may lack: what was not recorded then, and
    parameters that have been added since, at the value that changes nothing."""
    neutral = {name: neutral_value(base, name) for name in _fixed(file, base)}
    known = {name: value for name, value in neutral.items() if value is not None}
    others = set(WEIGHTS) - set(base.weights)
    defaults = {name: type(base).model_fields[name].default for name in others}
    return file.described_search() | defaults | known


def _fixed(file: Study, base: DistillConfig) -> dict[str, Any]:
    """The parameters that all trials share."""
    named_otherwise = {"dataset", *DATASET_OPTIONS, "teacher", "evaluate_test"}
    return base.model_dump(exclude=HOW_TO_RUN | named_otherwise | set(file.space))


def _taught_by(source: str, base: DistillConfig) -> DistillConfig:
    """The trials' config with the very logits that were found or made, so that no worker looks for
    others; a folder, which the description names by content, stays named by its path."""
    if source.startswith("sha256:"):
        return base
    return with_values(base, {"teacher": source, "pixels": "0..255"})


def _with_absolute_paths(base: DistillConfig) -> DistillConfig:
    """A worker may have another working folder."""
    paths = {}
    record = find_dataset(base.dataset)
    if record and record.is_path:
        paths["dataset"] = str(Path(base.dataset).resolve())
    if not is_automatic(base.teacher) and os.path.exists(base.teacher):  # noqa: PTH110 (long ids)
        paths["teacher"] = str(Path(base.teacher).resolve())
    if find_network(base.student).is_own and not base.student.startswith(APPLICATIONS):
        paths["student"] = str(Path(base.student).absolute())
    return with_values(base, paths)
