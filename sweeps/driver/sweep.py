"""A sweep from start to end: the plan, the study, its logits, its trials, its finals, the
results."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL

from kdflow.config.base import canonical
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError, about
from kdflow.naming import is_hash, run_name
from kdflow.needs import Need
from kdflow.reuse import Resolver
from kdflow.sources import own_networks
from kdflow.steps.checks import check_network
from kdflow.steps.distill import DistillConfig, layers_of, logits_needed
from kdflow.steps.estimate import duration_estimator
from kdflow.steps.plan import lines
from kdflow.steps.run import ALL_STEPS, load
from kdflow.tags import upstream_tag
from kdflow.tracking import dead, find, runs, store
from kdflow.tracking.run import Run
from kdflow.tracking.sync import deliver_left_over
from sweeps.driver import (
    control,
    description,
    finals,
    plan,
    sharing,
    storage,
    trial_queue,
    workers,
)
from sweeps.driver.config import SweepConfig, with_absolute_paths, with_values
from sweeps.driver.description import Described
from sweeps.driver.report import OF_CONTROL, log_trials
from sweeps.driver.study import Study
from sweeps.driver.trials import Order, all_views

UPSTREAM = "upstream"  # on a study: its teacher's logits, and the hint run of each `init`


def run(config: SweepConfig, file: Study, base: DistillConfig) -> str | None:
    """Search, run the finals and log the results; returns the id of the study's parent run, or None
    if only the plan was asked for.

    Args:
        base: what all trials have in common.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the steps print what matters
    # what auto stands for here: workers may be on other machines
    base = with_values(with_absolute_paths(base), {"precision": base.computed_in})
    with_values(base, {"seed": base.seed + config.repeats})  # the finals' last
    if file.points and config.trials > len(file.points):
        raise KdflowError(
            f"trials: expected at most {len(file.points)}, the points of the grid, got"
            f" {config.trials}"
        )
    file = replace(file, points=file.points[: config.trials])
    url = storage.parsed(config.storage)
    with workers.start_workers(config) as carry_out:
        store.open_store()
        deliver_left_over()
        dataset = load(base.dataset, base.holdout, base.dataset_options)
        resolver = Resolver(ALL_STEPS, dataset, config.reuse)
        logits = logits_needed(base, base.teacher, all_views(file, base))
        upstream = {"teacher": logits, **_lower_layers(file, base)}
        _check_trials(file, base, dataset)
        described = {"distill": description.of_trials(config, file, base, logits, resolver)}
        if config.control == "searched":
            described["baseline"] = description.of_control(config, file, base, dataset)
        ended = _ended_trials(described, url, config.heartbeat)
        _print_plan(config, file, base, resolver, upstream, ended)
        if base.plan_only:
            runs.label_project_run(f"sweep {config.study}")
            return None
        opened = storage.open_storage(url, config.heartbeat)
        study, is_new = sharing.open_study(opened, *described["distill"])
        with _parent(study, is_new, config, file, base, dataset) as parent:
            print(f"{study.study_name}: {config.trials} trials; the default is {file.cost}")
            resolver.parent = parent.run_id
            alone = None
            if "baseline" in described:
                alone = _open_control(opened, parent, described["baseline"], config, file)
            shared = _shared_upstream(study, is_new, file, resolver, upstream)
            order = Order(
                study=config.study,
                name=study.study_name,
                storage=storage.text_of(url),
                heartbeat=config.heartbeat,
                sampler_seed=config.sampler_seed,
                config=_taught_by(shared["teacher"], base),
                initial=shared["initial"],
                parent=parent.run_id,
                budget=None if file.points else config.trials,
                reuse=config.reuse,
                networks=own_networks(base, dataset),
            )
            carry_out(order)
            settings = finals.best_settings(study, config.best)
            log_trials(parent, study, file, settings[0])
            if alone:
                order = _search_control(parent, alone, order, file, carry_out)
            _hold_finals(parent, study, order, config, settings, carry_out)
    return parent.run_id


def _print_plan(
    config: SweepConfig,
    file: Study,
    base: DistillConfig,
    resolver: Resolver,
    upstream: dict[str, Need],
    ended: dict[str, int],
) -> None:
    """Raises `KdflowError` if what a trial builds on cannot be made."""
    plans = [resolver.plan(need) for need in upstream.values()]
    estimate = duration_estimator(resolver.dataset)
    own = plan.lines(config, file, base, ended, estimate)
    print("plan:", *lines(resolver, plans, estimate), *own, sep="\n")


def _ended_trials(described: dict[str, Described], url: URL, heartbeat: int) -> dict[str, int]:
    """By step, how many trials of its study have ended already. Raises `KdflowError` if a study of
    that name began otherwise, or its run is in another store."""
    if not storage.exists(url):
        return {}
    opened = storage.open_storage(url, heartbeat)
    found = {step: sharing.existing_study(opened, *it) for step, it in described.items()}
    if study := found["distill"]:
        _check_has_run(study)
    ended = {step: trial_queue.ended(study) for step, study in found.items() if study}
    opened.engine.dispose()
    return ended


def _check_has_run(study: optuna.Study) -> None:
    """Refuse a study whose parent run is in another store, or deleted."""
    run_id = study.user_attrs.get(trial_queue.RUN_ID)
    if run_id and not find.exists(run_id):
        raise KdflowError(
            f"study_name: expected a study whose run is in the store, got {study.study_name!r}"
            f" of run {run_id}, which is not; choose another study_name, or another storage"
        )


def _shared_upstream(
    study: optuna.Study, is_new: bool, file: Study, resolver: Resolver, upstream: dict[str, Need]
) -> dict[str, Any]:
    """The logits of the `teacher`, and the `initial` weights for each value of `init`, by their
    sources: those that the study's first process has made. Afterwards the queue has all points."""

    def make() -> dict[str, Any]:
        dead.end_abandoned(str(resolver.parent), {})  # of a process that died in making it
        # before a process that joins reads the queue
        trial_queue.enqueue(study, file.points)
        made = {role: resolver.obtain(need).source for role, need in upstream.items()}
        return {"teacher": made.pop("teacher"), "initial": {"none": "none", **made}}

    shared: dict[str, Any] = sharing.shared_value(study, UPSTREAM, is_new, make)
    print(f"logits: every trial reads the cached logits {shared['teacher']}")
    trial_queue.enqueue(study, file.points)  # the new ones, of a larger budget than before
    return shared


def _check_trials(file: Study, base: DistillConfig, dataset: Dataset) -> None:
    """Refuse a study of which a trial cannot be trained on these images.

    Raises:
        KdflowError: says why.
    """
    for name in file.space:
        for value in file.extremes(name):
            config = with_values(base, {name: value})
            with about("student"):
                check_network(config, dataset, {})


def _lower_layers(file: Study, base: DistillConfig) -> dict[str, Need]:
    """For each value of `init` in the trials, the hint run that it means."""
    values = getattr(file.space.get("init"), "choices", [base.init])
    return {value: layers_of(base, value) for value in values if value != "none"}


def _open_control(
    opened: RDBStorage, parent: Run, described: Described, config: SweepConfig, file: Study
) -> optuna.Study:
    """The study of a searched control. Its runs are children of the same parent run."""
    study, _ = sharing.open_study(opened, *described)
    study.set_user_attr(trial_queue.RUN_ID, parent.run_id)
    file = control.baseline_study(file)
    count = len(file.points) or config.trials
    print(f"{study.study_name}: {count} trials of the baseline, over {', '.join(file.space)}")
    return study


def _search_control(
    parent: Run, study: optuna.Study, order: Order, file: Study, carry_out: workers.CarryOut
) -> Order:
    """Run the trials of a searched control; returns the order with the best setting in it."""
    file = control.baseline_study(file)
    trial_queue.enqueue(study, file.points)
    carry_out(replace(order, name=study.study_name, taught=False))
    [best] = finals.best_settings(study, 1)
    log_trials(parent, study, file, best, OF_CONTROL)
    return replace(order, control=best)


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
    print(f"finals: best settings: {len(settings)}, seeds: {config.repeats}, each with a baseline")
    carry_out(order)
    finals.record_held(study, held, parent)
    table = finals.results(order, held)
    parent.log_text(table.to_csv(index=False), "finals.csv")
    finals.log_verdicts(parent, order, settings, finals.verdicts(table, config.repeats))


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
    any more. What is searched is not among its parameters."""
    first = None if is_new else sharing.parent_of(study)
    name = run_name(study.study_name)
    hidden = {"evaluate_test", *file.space}
    of_trials = {each: value for each, value in base.used().items() if each not in hidden}
    values = config.used() | of_trials
    values["storage"] = storage.shown(storage.parsed(config.storage))
    params = {name: canonical(value) for name, value in values.items()}
    with contextlib.ExitStack() as opened:
        is_owner = opened.enter_context(sharing.ownership(study))
        if first is None and not is_owner:  # another process has found the study's maker dead too
            first = sharing.parent_of(study)
        if first is None:
            run = opened.enter_context(runs.open_run(name, "sweep", dataset, {}))
            study.set_user_attr(trial_queue.RUN_ID, run.run_id)
            run.log_params(params)
            run.log_json(values, "config.json")
            yield run
            return
        _check_has_run(study)
        print(f"{study.study_name}: {'resumes' if is_owner else 'joins'} run {first}")
        if runs.joins_project_run():  # `mlflow run` has opened one more
            asked = opened.enter_context(runs.open_run(name, "sweep", dataset, {}))
            asked.log_params(params)
            asked.set_tags({upstream_tag("sweep"): first})
        if is_owner:
            yield opened.enter_context(runs.reopened(first))
            return
        with runs.joined(first) as run:
            yield run
        if opened.enter_context(sharing.ownership(study)):  # its owner has ended or died
            deliver_left_over()
            opened.enter_context(runs.reopened(first))


def _taught_by(source: str, base: DistillConfig) -> DistillConfig:
    """The trials' config with the very logits that were found or made, so that no worker looks for
    others; a folder, which the description names by content, stays named by its path."""
    if is_hash(source):
        return base
    return with_values(base, {"teacher": source, "pixels": "0..255"})
