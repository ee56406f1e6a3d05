"""The work of one worker process: run trials, or the trainings of the finals, until enough have
ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from kdflow.config.views import Views
from kdflow.dataset import Dataset
from kdflow.errors import ChangedError, KdflowError
from kdflow.naming import run_name
from kdflow.needs import training
from kdflow.results.records import TeacherLogits, TrainedModel
from kdflow.reuse import Resolver
from kdflow.sources import own_networks
from kdflow.steps import distill
from kdflow.steps.baseline import BaselineConfig, baseline_for
from kdflow.steps.distill import DistillConfig, logits_needed
from kdflow.steps.run import ALL_STEPS, load
from kdflow.steps.training import (
    evaluate_and_log,
    labels_term,
    log_kept_epoch,
    start_training,
)
from kdflow.tags import HARDWARE_TAG, TEACHER_TAG
from kdflow.tracking import runs, store
from kdflow.tracking.find import get_run
from kdflow.tracking.run import PRUNED, Run
from kdflow.training.objective import Objective
from sweeps.driver import control, storage, trial_queue
from sweeps.driver.config import with_values
from sweeps.driver.pruning import should_prune
from sweeps.driver.sampling import SeededByTrial
from sweeps.driver.study import Study
from sweeps.driver.study import load as load_study

TrialFunction = Callable[[optuna.Trial], float]


def in_words(values: dict[str, Any]) -> str:
    """A setting as the console shows it."""
    return " ".join(f"{name}={value}" for name, value in values.items())


@dataclass(frozen=True)
class Final:
    """A training of the finals.

    Attributes:
        values: the finalist's setting.
        taught: whether the finalist is trained, or the baseline that it is compared with.
    """

    values: dict[str, Any]
    seed: int
    taught: bool

    @property
    def step(self) -> str:
        """The step that trains it."""
        return "distill" if self.taught else "baseline"

    @property
    def words(self) -> str:
        """The training as the console shows it."""
        setting = in_words(self.values)
        return f"{setting if self.taught else f'the baseline beside {setting}'}, seed {self.seed},"


@dataclass(frozen=True)
class Order:
    """What a worker has to know.

    Attributes:
        study: the name of a file in `sweeps/`.
        name: of the study in the storage.
        storage: URL with an absolute path.
        config: what all trials have in common; its teacher is the run or folder of the logits.
        initial: the id of the hint run for each value of `init`.
        parent: the id of the run that all runs are children of.
        budget: number of trials; None to run those that are enqueued.
        reuse: which earlier trainings count in the finals.
        taught: whether trials are of `distill`, or of the baseline: those of a searched control.
        finals: trained instead of trials if there are any.
        control: the best setting of a searched control, which the finals' baselines have;
            if empty, each has the setting of its finalist.
        networks: the identifiers of the user's own networks, as the sweep began.
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
    taught: bool = True
    finals: tuple[Final, ...] = ()
    control: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)


def work(order: Order) -> None:
    """Run trials or finals until all of the order have ended, in this process or another one.

    Raises:
        ChangedError: the file of a network has changed since the sweep began.
    """
    store.open_store()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the steps print what matters
    file = load_study(order.study)
    if not order.taught:
        file = control.baseline_study(file)
    study = optuna.load_study(
        study_name=order.name,
        storage=storage.open_storage(storage.parsed(order.storage), order.heartbeat),
        sampler=SeededByTrial(file.sampler, order.sampler_seed),
        pruner=file.pruner,
    )
    config = order.config
    dataset = load(config.dataset, config.holdout, config.dataset_options)
    check_networks(order, dataset)
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
            check_networks(order, dataset)  # which would fail every trial that follows
            raise

    trial_queue.run_trials(study, reported, order.budget)


def check_networks(order: Order, dataset: Dataset) -> None:
    """Refuse to train another network than the sweep began with.

    Raises:
        ChangedError: the file of a user's own network has changed since.
    """
    expected = f"student: expected the network that the sweep began with in {order.config.student}"
    try:
        found = own_networks(order.config, dataset)
    except KdflowError as error:
        raise ChangedError(f"{expected}, got an error: {error}") from error
    if found != order.networks:
        raise ChangedError(f"{expected}, got another one; restore the file or begin a new study")


def _trial(order: Order, file: Study, resolver: Resolver) -> TrialFunction:
    """Train one setting. A teacher's logits are read and verified here, once for all trials of this
    process."""
    if order.taught:
        needed = logits_needed(order.config, order.config.teacher, all_views(file, order.config))
        if resolver.plan(needed).result is None:
            raise KdflowError(f"teacher: expected logits in {order.config.teacher}, got none")

    def objective(trial: optuna.Trial) -> float:
        config, title = trial_of(order, file.suggest(trial), trial.number)
        planned = resolver.with_inputs("distill" if order.taught else "baseline", config)
        with resolver.opened(planned, title, keeps_state=False) as (run, upstream):
            trial.set_user_attr(trial_queue.RUN_ID, run.run_id)
            accuracy = _trained(trial, run, config, resolver.dataset, title, **upstream)
        if accuracy is None:
            raise optuna.TrialPruned
        return accuracy

    return objective


def trial_of(
    order: Order, values: dict[str, Any], number: int
) -> tuple[DistillConfig | BaselineConfig, str]:
    """The parameters of a trial with a setting, and the name of its run."""
    if not order.taught:
        alone = with_values(baseline_for(order.config), values)
        return alone, run_name(f"#{number}", "baseline trial", alone.student_name)
    config = with_values(order.config, values)
    config = with_values(config, {"init": order.initial[config.init]})
    return config, run_name(
        f"#{number}", config.objective, config.start, "trial", config.student_and_teacher
    )


def _trained(
    trial: optuna.Trial,
    run: Run,
    config: DistillConfig | BaselineConfig,
    dataset: Dataset,
    title: str,
    *,
    teacher: TeacherLogits | None = None,
    init: TrainedModel | None = None,
) -> float | None:
    """The validation accuracy of the epoch that is kept; None if the training stopped early, so
    that its run ends KILLED: the trial was pruned, or another process has marked it failed.

    Args:
        teacher: of a trial of `distill`.
    """
    minimised: Objective = labels_term(config, dataset)
    if teacher and isinstance(config, DistillConfig):
        run.set_tags({TEACHER_TAG: teacher.logits.manifest.network})
        minimised = distill.objective(config, dataset, teacher)
    network, epochs = start_training(
        run, config, dataset, minimised, init.network if init else None
    )
    history = []
    for epoch, metrics in epochs:
        run.log(metrics, epoch)
        history.append(metrics)
        ended = because = ""
        try:
            trial.report(metrics["val_accuracy"], epoch)
            if epoch < config.epochs and should_prune(trial):
                ended = PRUNED
        except UpdateFinishedTrialError:
            ended, because = "stopped", ": its heartbeats were missing, so that it is retried"
        if ended:
            print(f"{title}: {ended} after {epoch} of {config.epochs} epochs{because}")
            run.stop(ended)
            return None
    evaluate_and_log(run, config, dataset, network)
    accuracy = log_kept_epoch(run, config, history)["val_accuracy"]
    print(f"{title}: validation accuracy {accuracy:.4f}")
    return accuracy


def _final(order: Order, resolver: Resolver) -> TrialFunction:
    """The objective of a trial that trains a finalist or its baseline with one seed, if there is no
    run to reuse."""

    def objective(trial: optuna.Trial) -> float:
        final = order.finals[trial.suggest_int("final", 0, len(order.finals) - 1)]
        need = training(final.step, **training_of(order, final).model_dump())
        result = resolver.obtain(need)
        trial.set_user_attr(trial_queue.RUN_ID, result.run_id)
        trial.set_user_attr(HARDWARE_TAG, get_run(result.run_id).tags.get(HARDWARE_TAG, ""))
        return float(result.metrics["test_accuracy"])

    return objective


def training_of(order: Order, final: Final) -> DistillConfig | BaselineConfig:
    """The parameters of a training of the finals."""
    return final_config(order, final) if final.taught else baseline_of(order, final)


def baseline_of(order: Order, final: Final) -> BaselineConfig:
    """The parameters of the baseline that a finalist is compared with."""
    return with_values(baseline_for(final_config(order, final)), order.control)


def final_config(order: Order, final: Final) -> DistillConfig:
    """The parameters of a finalist. Unlike a trial it reads the test set."""
    values = {**final.values, "seed": final.seed, "evaluate_test": True}
    init = str(values.get("init", order.config.init))
    return with_values(order.config, {**values, "init": order.initial[init]})


def all_views(file: Study, config: DistillConfig) -> Views:
    """The views of the trial that needs the most."""
    searched = "views" in file.space
    count = max(map(int, file.extremes("views"))) if searched else config.views
    return Views(count, config.view_set)
