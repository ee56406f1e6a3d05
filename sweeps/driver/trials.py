"""What a worker does, in the driver's process or in another one: trials and finals, until there are
enough."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution

from kdflow import data, tracking
from kdflow.config import DistillConfig
from kdflow.errors import KdflowError, Stopped
from kdflow.steps import baseline, distill, export_logits, hint
from kdflow.steps.record import TrainedModel, open_step
from sweeps.driver import storage
from sweeps.driver.config import with_values
from sweeps.driver.sampling import SeededByTrial
from sweeps.driver.study import Study, grid, load

Objective = Callable[[optuna.Trial], float]


@dataclass(frozen=True)
class Final:
    """A training of the finals: of a finalist, or of the baseline beside it."""

    values: dict[str, Any]
    seed: int
    taught: bool


@dataclass(frozen=True)
class Order:
    """All that a worker has to know, wherever it runs.

    Attributes:
        study: the file in `sweeps/`.
        name: the study's in the storage.
        config: what all trials have in common; its teacher is the logits' run or folder.
        initial: for each value of `init`, the id of the hint run that it means.
        parent: the id of the run that all runs are children of.
        budget: how many trials there are to be.
        finals: if there are any, they are to be trained, and not trials.
    """

    study: str
    name: str
    storage: str
    heartbeat: int
    sampler_seed: int
    config: DistillConfig
    initial: dict[str, str]
    parent: str
    budget: int
    finals: tuple[Final, ...] = ()


def work(order: Order) -> None:
    """Run trials, or finals, until those of the order have ended, here or elsewhere."""
    tracking.open_store()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    opened, file = storage.open_storage(order.storage, order.heartbeat), load(order.study)
    images = data.load(order.config.dataset)
    if order.finals:
        study = optuna.load_study(
            study_name=order.name,
            storage=opened,
            sampler=grid({"final": range(len(order.finals))})(0),
        )
        objective = _final(order, images)
    else:
        study = optuna.load_study(
            study_name=order.name,
            storage=opened,
            sampler=SeededByTrial(file.sampler, order.sampler_seed),
            pruner=file.pruner,
        )
        objective = _trial(order, file, images)

    def watched(trial: optuna.Trial) -> float:
        if storage.is_surplus(study, trial.number, order.budget):
            trial.set_user_attr(storage.SURPLUS, True)
            raise storage.Surplus
        trial.set_user_attr("host", socket.gethostname())
        trial.set_user_attr("process", os.getpid())
        try:
            return objective(trial)
        except KeyboardInterrupt:
            storage.retry(study, study.trials[trial.number])
            raise

    storage.work_off(study, watched, order.budget)


def _trial(order: Order, file: Study, images: data.Dataset) -> Objective:
    """Train one setting on the teacher's logits, which are read and verified here, once."""
    views = max_views(file, order.config)
    teacher = export_logits.find(with_values(order.config, {"views": views}), images)
    if teacher is None:
        raise KdflowError(f"teacher: expected logits in {order.config.teacher}, got none")
    initial: dict[str, TrainedModel | None] = {
        value: hint.find_initial(with_values(order.config, {"init": run_id}), images)
        for value, run_id in order.initial.items()
    }

    def objective(trial: optuna.Trial) -> float:
        values = file.suggest(trial)
        config = with_values(order.config, values)
        upstream = distill.Upstream(teacher, initial[config.init])
        tags = {storage.TRIAL_TAG: storage.tag_of(trial.study, trial.number)}
        name = f"trial {trial.number}: {distill.name_of(config)}"

        def report(epoch: int, metrics: dict[str, float]) -> None:
            trial.report(metrics["val_accuracy"], epoch)
            if epoch < config.epochs and trial.should_prune():
                print(f"{name}: given up after {epoch} of {config.epochs} epochs")
                raise Stopped

        try:
            with (
                tracking.inside(order.parent, tags),
                open_step("distill", name, config, images, child=True) as run_id,
            ):
                trial.set_user_attr("run_id", run_id)
                result = distill.train(
                    run_id, config, images, upstream, on_epoch=report, keep=False
                )
        except Stopped as stopped:
            raise optuna.TrialPruned from stopped
        return result.metrics["val_accuracy"]

    return objective


def _final(order: Order, images: data.Dataset) -> Objective:
    """Train one finalist, or the baseline beside it, with one seed, unless there is such a run."""

    def objective(trial: optuna.Trial) -> float:
        final = order.finals[trial.suggest_int("final", 0, len(order.finals) - 1)]
        tags = {storage.TRIAL_TAG: storage.tag_of(trial.study, trial.number)}
        with tracking.inside(order.parent, tags):
            if final.taught:
                result = distill.find_or_run(final_config(order, final), images)
            else:
                result = baseline.find_or_run(baseline.beside(final_config(order, final)), images)
        trial.set_user_attr("run_id", result.run_id)
        return result.metrics["test_accuracy"]

    return objective


def final_config(order: Order, final: Final) -> DistillConfig:
    """The training of a finalist. Unlike a trial it reads the test set."""
    values = {**final.values, "seed": final.seed, "evaluate_test": True}
    init = str(values.get("init", order.config.init))
    return with_values(order.config, {**values, "init": order.initial[init]})


def max_views(file: Study, config: DistillConfig) -> int:
    """How many views of the images the trials need, at most."""
    searched = file.space.get("views")
    if isinstance(searched, IntDistribution):
        return searched.high
    if isinstance(searched, CategoricalDistribution):
        return max(int(str(views)) for views in searched.choices)
    return config.views
