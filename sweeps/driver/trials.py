"""What a worker does, in the driver's process or in another one: run trials and finals until there
are enough."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.needs import LogitsOf, training
from kdflow.results.records import TeacherLogits, TrainedModel
from kdflow.reuse import Resolver
from kdflow.steps import distill
from kdflow.steps.baseline import beside
from kdflow.steps.distill import DistillConfig
from kdflow.steps.run import ALL_STEPS, load
from kdflow.steps.training import begin, end
from kdflow.tracking import runs, store
from sweeps.driver import storage, trial_queue
from sweeps.driver.config import with_values
from sweeps.driver.sampling import SeededByTrial
from sweeps.driver.study import Study
from sweeps.driver.study import load as load_study

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
    """What a worker has to know, wherever it runs.

    Attributes:
        study: the file in `sweeps/`.
        name: the study's in the storage.
        storage: its URL, absolute.
        config: what all trials have in common; its teacher is the logits' run or folder.
        initial: for each value of `init`, the id of the hint run that it means.
        parent: the id of the run that all runs are children of.
        budget: how many trials there are to be; None if it is those that were enqueued.
        reuse: which earlier trainings count in the finals.
        finals: if there are any, they are trained instead of trials.
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
    reuse: str
    finals: tuple[Final, ...] = ()


def work(order: Order) -> None:
    """Run trials, or finals, until those of the order have ended, here or elsewhere."""
    store.open_store()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the steps print what matters
    file = load_study(order.study)
    study = optuna.load_study(
        study_name=order.name,
        storage=storage.open_storage(storage.parsed(order.storage), order.heartbeat),
        sampler=SeededByTrial(file.sampler, order.sampler_seed),
        pruner=file.pruner,
    )
    dataset = load(order.config.dataset, order.config.holdout)
    resolver = Resolver(ALL_STEPS, dataset, order.reuse)
    resolver.parent = order.parent
    objective = _final(order, resolver) if order.finals else _trial(order, file, resolver)

    def reported(trial: optuna.Trial) -> float:
        tags = trial_queue.tags_of(trial.study, trial.number)
        try:
            with runs.inside(order.parent, tags):
                return objective(trial)
        except KdflowError as error:
            print(f"{'training' if order.finals else 'trial'} {trial.number}: {error}")
            raise

    trial_queue.work_off(study, reported, order.budget)


def _trial(order: Order, file: Study, resolver: Resolver) -> Objective:
    """Train one setting on the teacher's logits, which are read and verified here, once."""
    base, views = order.config, max_views(file, order.config)
    needed = LogitsOf(base.teacher, base.holdout, views, parameter="teacher")
    if resolver.plan(needed).result is None:
        raise KdflowError(f"teacher: expected logits in {order.config.teacher}, got none")

    def objective(trial: optuna.Trial) -> float:
        values = file.suggest(trial)
        config = with_values(order.config, values)
        config = with_values(config, {"init": order.initial[config.init]})
        title = f"trial {trial.number}: {distill.title(config)}"
        planned = resolver.with_inputs("distill", config)
        with resolver.opened(planned, title) as (run, upstream):
            trial.set_user_attr("run_id", run.run_id)
            accuracy = _trained(trial, run, config, resolver.dataset, title, **upstream)
        if accuracy is None:
            raise optuna.TrialPruned
        return accuracy

    return objective


def _trained(
    trial: optuna.Trial,
    run: runs.Run,
    config: DistillConfig,
    dataset: Dataset,
    title: str,
    *,
    teacher: TeacherLogits,
    init: TrainedModel | None = None,
) -> float | None:
    """The last validation accuracy; None if the trial was pruned, or marked failed elsewhere, and
    its run ends KILLED."""
    objective = distill.objective(config, teacher)
    network, epochs = begin(run, config, dataset, objective, init.network if init else None)
    for epoch, metrics in epochs:
        run.log(metrics, epoch)
        try:
            trial.report(metrics["val_accuracy"], epoch)
            is_pruned = epoch < config.epochs and trial.should_prune()
        except UpdateFinishedTrialError:  # its heartbeats were missed
            is_pruned = True
        if is_pruned:
            print(f"{title}: pruned after {epoch} of {config.epochs} epochs")
            run.status = runs.KILLED
            return None
    final = end(run, config, dataset, network)
    print(f"{title}: validation accuracy {metrics['val_accuracy']:.4f}")
    return float((metrics | final)["val_accuracy"])


def _final(order: Order, resolver: Resolver) -> Objective:
    """Train one finalist, or the baseline beside it, with one seed, unless there is such a run."""

    def objective(trial: optuna.Trial) -> float:
        final = order.finals[trial.suggest_int("final", 0, len(order.finals) - 1)]
        config = final_config(order, final)
        if final.taught:
            need = training("distill", **config.model_dump())
        else:
            need = training("baseline", **beside(config).model_dump())
        result = resolver.obtain(resolver.plan(need))
        trial.set_user_attr("run_id", result.run_id)
        return float(result.metrics["test_accuracy"])

    return objective


def final_config(order: Order, final: Final) -> DistillConfig:
    """The training of a finalist. Unlike a trial it reads the test set."""
    values = {**final.values, "seed": final.seed, "evaluate_test": True}
    init = str(values.get("init", order.config.init))
    return with_values(order.config, {**values, "init": order.initial[init]})


def max_views(file: Study, config: DistillConfig) -> int:
    """How many views of the images the trials need, at most."""
    return max(map(int, file.extremes("views"))) if "views" in file.space else config.views
