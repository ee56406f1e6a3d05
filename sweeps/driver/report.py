"""The results of a study's trials: a table, pictures, figures and tags of the parent run."""

from collections import Counter
from typing import Any

import optuna
from optuna.trial import TrialState

from kdflow.config.base import canonical
from kdflow.tracking.run import Run
from sweeps.driver import pictures, trial_queue
from sweeps.driver.study import Study

OF_CONTROL = "control_"  # goes before the names of a searched control's artifacts and figures


def log_trials(
    parent: Run, study: optuna.Study, file: Study, best: dict[str, Any], prefix: str = ""
) -> None:
    """Log the trials as a table and as pictures, and the best result, to the parent run.

    Args:
        best: the best setting.
        prefix: goes before the names of all that is logged.
    """
    table = study.trials_dataframe(
        attrs=("number", "state", "value", "params", "duration", "user_attrs")
    )
    parent.log_text(table.to_csv(index=False), f"{prefix}trials.csv")
    pictures.log(parent, study, _mapped(file), prefix)
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
    parent.log({f"{prefix}{name}": float(value) for name, value in figures.items()})
    parent.set_tags({f"{prefix}best.{name}": canonical(value) for name, value in best.items()})
    print(
        f"{study.study_name}: {states[TrialState.COMPLETE]} of {len(trials)} trials are complete,"
        f" {epochs} epochs; best validation accuracy {study.best_value:.4f} with"
        f" {', '.join(f'{name}={value}' for name, value in best.items())}"
    )


def _mapped(file: Study) -> list[str]:
    """The two parameters to draw a map of: temperature and alpha, or else the first two."""
    usual = [name for name in ("temp", "alpha") if name in file.space]
    return usual if len(usual) == 2 else list(file.space)[:2]
