"""What a worker does, in the driver's process or in another one: trials and finals, until there are
enough."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from kdflow import data, tracking
from kdflow.config import DistillConfig
from kdflow.errors import KdflowError, Stopped
from kdflow.steps import baseline, distill, export_logits, hint
from kdflow.steps.record import TrainedModel, open_step
from sweeps.driver import storage
from sweeps.driver.config import with_values
from sweeps.driver.sampling import SeededByTrial
from sweeps.driver.study import Study, load

Objective = Callable[[optuna.Trial], float]


def in_words(values: dict[str, Any]) -> str:
    """What the console calls a setting."""
    return " ".join(f"{name}={value}" for name, value in values.items())


@dataclass(frozen=True)
class Final:
    """A training of the finals: of a finalist, or of the baseline beside it."""

    values: dict[str, Any]
    seed: int
    taught: bool

    @property
    def words(self) -> str:
        """What the console calls it."""
        setting = in_words(self.values)
        return f"{setting if self.taught else f'the baseline beside {setting}'}, seed {self.seed},"


@dataclass(frozen=True)
class Order:
    """All that a worker has to know, wherever it runs.

    Attributes:
        study: the file in `sweeps/`.
        name: the study's in the storage.
        storage: its URL, absolute.
        config: what all trials have in common; its teacher is the logits' run or folder.
        initial: for each value of `init`, the id of the hint run that it means.
        parent: the id of the run that all runs are children of.
        budget: how many trials there are to be; None if it is those that were enqueued.
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
    budget: int | None
    finals: tuple[Final, ...] = ()


def work(order: Order) -> None:
    """Run trials, or finals, until those of the order have ended, here or elsewhere."""
    tracking.open_store()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the steps tell what there is to tell
    file = load(order.study)
    study = optuna.load_study(
        study_name=order.name,
        storage=storage.open_storage(storage.parsed(order.storage), order.heartbeat),
        sampler=SeededByTrial(file.sampler, order.sampler_seed),
        pruner=file.pruner,
    )
    images = data.load(order.config.dataset)
    objective = _final(order, images) if order.finals else _trial(order, file, images)

    def told(trial: optuna.Trial) -> float:
        try:
            return objective(trial)
        except KdflowError as error:
            print(f"{'training' if order.finals else 'trial'} {trial.number}: {error}")
            raise

    storage.work_off(study, told, order.budget)


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
        tags = storage.tags_of(trial.study, trial.number)
        name = f"trial {trial.number}: {distill.name_of(config)}"

        def report(epoch: int, metrics: dict[str, float]) -> None:
            try:
                trial.report(metrics["val_accuracy"], epoch)
            except UpdateFinishedTrialError as taken_for_dead:
                raise Stopped from taken_for_dead
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
        tags = storage.tags_of(trial.study, trial.number)
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
    return max(map(int, file.extremes("views"))) if "views" in file.space else config.views
