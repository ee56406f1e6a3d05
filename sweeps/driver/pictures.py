"""Optuna's plots of a study: PNG files, and one interactive page."""

import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.trial import TrialState
from optuna.visualization import matplotlib as static

from kdflow.tracking.run import Run

PLOTS = {
    "history": "plot_optimization_history",
    "map": "plot_contour",
    "slice": "plot_slice",
    "importances": "plot_param_importances",
    "intermediate_values": "plot_intermediate_values",
}
PAGE = "study.html"


def log(run: Run, study: optuna.Study, mapped: list[str], prefix: str = "") -> None:
    """Draw a study with at least one complete trial, and log the plots.

    Args:
        mapped: the two parameters of the map, which is drawn only if there are two and the trials
            differ.
        prefix: goes before the names of the files.
    """
    accuracy = {"target_name": "validation accuracy"}
    options: dict[str, dict[str, Any]] = {
        "history": accuracy,
        "map": {"params": mapped, **accuracy},
        "slice": accuracy,
        "importances": accuracy,
        "intermediate_values": {},
    }
    differ = len({trial.value for trial in study.get_trials(states=[TrialState.COMPLETE])}) > 1
    if not differ or len(mapped) != 2:
        del options["map"]
    if not differ:
        del options["importances"]
        print(
            f"{study.study_name}: no map and no importances, as all trials have the same accuracy"
        )
    parts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, about experimental plots and few trials
        for name, given in options.items():
            axes = getattr(static, PLOTS[name])(study, **given)
            figure = np.ravel(axes)[0].figure
            figure.set_size_inches(max(9, 6 * np.size(axes)), 6)
            run.log_figure(figure, f"{prefix}{name}.png")
            plt.close(figure)
            interactive = getattr(optuna.visualization, PLOTS[name])(study, **given)
            parts.append(interactive.to_html(full_html=False, include_plotlyjs=not parts))
    title = f"<title>{study.study_name}</title>"
    run.log_text(f'<meta charset="utf-8">{title}\n' + "\n".join(parts), f"{prefix}{PAGE}")
