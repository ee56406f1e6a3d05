"""The finals: the best settings against the student from labels alone, on the test set."""

import hashlib
import json
from collections import Counter
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from kdflow.errors import KdflowError
from kdflow.evaluate.compare import Comparison, compare, holm
from kdflow.sources import code_of
from kdflow.steps.compare import metrics_of
from kdflow.tags import CONTROL_TAG, HARDWARE_TAG, VERDICT_TAG
from kdflow.tracking.run import Run
from sweeps.driver import storage, trial_queue
from sweeps.driver.report import OF_CONTROL
from sweeps.driver.trials import Final, Order, baseline_of, in_words, training_of

HELD = "finals"  # on a study: the names of all finals that it has had


def best_settings(study: optuna.Study, count: int) -> list[dict[str, Any]]:
    """The parameters of the `count` trials with the largest validation accuracy, best first; of
    equal ones the earliest. Settings that were tried twice count once.

    Raises:
        KdflowError: no trial is complete.
    """
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if not complete:
        states = Counter(trial.state for trial in trial_queue.counted(study))
        raise KdflowError(
            f"{study.study_name}: expected a complete trial, got {states[TrialState.FAIL]} failed"
            f" and {states[TrialState.PRUNED]} pruned ones; each failed trial has printed its error"
        )
    ranked: list[dict[str, Any]] = []
    for trial in sorted(complete, key=lambda trial: (-(trial.value or 0), trial.number)):
        if trial.params not in ranked:
            ranked.append(trial.params)
    return ranked[:count]


def trainings(order: Order, settings: list[dict[str, Any]], repeats: int) -> tuple[Final, ...]:
    """What the finals train with `repeats` seeds: each setting, and the baseline of each, where
    equal baselines count once. The trials' seed is left out, since it chose the settings."""
    seeds = range(order.config.seed + 1, order.config.seed + 1 + repeats)
    finalists = [Final(values, seed, taught=True) for values in settings for seed in seeds]
    controls = {
        baseline_of(order, final): Final(final.values, final.seed, taught=False)
        for final in finalists
    }
    return (*finalists, *controls.values())


def name_of(order: Order, finals: tuple[Final, ...]) -> str:
    """The name of the finals in Optuna's storage. It depends on the finalists, on `reuse` and,
    unless that is any, on the code."""
    named: list[Any] = [[final.values, final.seed, final.taught] for final in finals]
    if order.reuse != "any":
        codes = {code_of(final.step, training_of(order, final).used()) for final in finals}
        named.append(sorted(codes))
    if order.reuse == "never":
        named.append(order.reuse)
    if order.control:
        named.append(order.control)
    described = json.dumps(named)
    return f"{order.name} finals {hashlib.sha256(described.encode()).hexdigest()[:8]}"


def results(order: Order, study: optuna.Study) -> pd.DataFrame:
    """A row per finalist and seed, with the test accuracy of it and of the baseline beside it.

    Raises:
        KdflowError: a training has failed.
    """
    trials = {
        trial.params["final"]: trial for trial in study.get_trials(states=[TrialState.COMPLETE])
    }
    missing = [final for index, final in enumerate(order.finals) if index not in trials]
    if missing:
        raise KdflowError(
            f"{study.study_name}: expected {len(order.finals)} finished trainings, got"
            f" {len(trials)}; {missing[0].words} has failed. Run the same command to retry it;"
            " there is no verdict without it"
        )
    kinds = {str(trial.user_attrs.get(HARDWARE_TAG, "")) for trial in trials.values()}
    if len(kinds) > 1:
        print(
            f"WARNING: the finals were trained on different hardware ({'; '.join(sorted(kinds))}),"
            " which changes weights in their last bits; the verdict compares them all the same"
        )
    alone = {
        baseline_of(order, final): trials[index]
        for index, final in enumerate(order.finals)
        if not final.taught
    }
    rows = []
    for index, final in enumerate(order.finals):
        if final.taught:
            control = alone[baseline_of(order, final)]
            rows.append(
                {
                    **final.values,
                    **_of_control(order),
                    "seed": final.seed,
                    "baseline": control.value,
                    "distilled": trials[index].value,
                    "baseline_run": control.user_attrs[trial_queue.RUN_ID],
                    "distilled_run": trials[index].user_attrs[trial_queue.RUN_ID],
                }
            )
    return pd.DataFrame(rows)


def verdicts(table: pd.DataFrame, repeats: int) -> list[Comparison]:
    """A comparison per finalist, in their order, corrected for their number."""
    parts = [table[start : start + repeats] for start in range(0, len(table), repeats)]
    return holm([compare(part["distilled"].tolist(), part["baseline"].tolist()) for part in parts])


def create(order: Order) -> optuna.Study:
    """The finals' study, with all trainings that are not complete in its queue."""
    study = optuna.create_study(
        storage=storage.open_storage(storage.parsed(order.storage), order.heartbeat),
        study_name=order.name,
        direction="maximize",
        load_if_exists=True,
    )
    study.set_user_attr(trial_queue.RUN_ID, order.parent)
    points = [{"final": index} for index in range(len(order.finals))]
    trial_queue.enqueue(study, points, failed_too=True)
    return study


def record_held(study: optuna.Study, held: optuna.Study, run: Run) -> None:
    """Record on the study and on its parent run how many finals the study has had. Each of them
    reads the test set once more, and no verdict is corrected for that."""
    names = study.user_attrs.get(HELD, [])
    if held.study_name not in names:
        names = [*names, held.study_name]
        study.set_user_attr(HELD, names)
    run.log({"finals_held": float(len(names))})
    if len(names) > 1:
        print(
            f"finals: this study has now had {len(names)} finals on the test set. No verdict is"
            " corrected for that, so a BEATS is more likely to be chance"
        )


def log_verdicts(
    run: Run, order: Order, settings: list[dict[str, Any]], compared: list[Comparison]
) -> None:
    """Print and log the verdict on each finalist: all in a table, that of the best setting as
    metrics and as a tag too. Another tag says whether the control was searched."""
    searched = f" (searched: {in_words(order.control)})" if order.control else ""
    rows = []
    for values, result in zip(settings, compared, strict=True):
        print(
            f"{in_words(values)}: test accuracy distilled {result.candidate}, from labels alone"
            f"{searched} {result.baseline}, difference {result.difference}, p ="
            f" {result.p_value:.2g}: {result.verdict}"
        )
        figures = metrics_of(result)
        rows.append({**values, **_of_control(order), **figures, "verdict": result.verdict})
    run.log_text(pd.DataFrame(rows).to_csv(index=False), "verdicts.csv")
    run.log(metrics_of(compared[0]))
    control = f"searched: {', '.join(order.control)}" if order.control else "fixed"
    run.set_tags({VERDICT_TAG: compared[0].verdict, CONTROL_TAG: control})


def _of_control(order: Order) -> dict[str, Any]:
    """What a row of a table says of a searched control."""
    return {f"{OF_CONTROL}{name}": value for name, value in order.control.items()}
