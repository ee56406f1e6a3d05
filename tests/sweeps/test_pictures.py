"""The plots of a study."""

from unittest import mock

import optuna
import pytest

from kdflow.tracking.run import Run
from sweeps.driver import pictures
from sweeps.driver.study import load


@pytest.mark.parametrize("value", [0.5, None])
def test_a_map_and_importances_are_drawn_where_trials_differ(
    value: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mock.create_autospec(Run, instance=True)
    search = optuna.create_study(direction="maximize")

    def accuracy(trial: optuna.Trial) -> float:
        values = load("temperature_alpha").suggest(trial)
        for epoch in (1, 2):
            trial.report(values["alpha"], epoch)
        return float(values["alpha"] if value is None else value)

    search.optimize(accuracy, n_trials=5)
    pictures.log(run, search, ["temp", "alpha"])
    drawn = [call.args[1] for call in run.log_figure.call_args_list]
    assert ("no map and no importances" in capsys.readouterr().out) == (value is not None)
    always = {"history.png", "slice.png", "intermediate_values.png"}
    assert set(drawn) == always | ({"map.png", "importances.png"} if value is None else set())
    [(page, name)] = [call.args for call in run.log_text.call_args_list]
    assert name == "study.html"
    assert page.count('class="plotly-graph-div"') == len(drawn)


def test_a_study_of_one_parameter_has_all_pictures_but_the_map_by_prefixed_names() -> None:
    run = mock.create_autospec(Run, instance=True)
    search = optuna.create_study(direction="maximize")
    search.optimize(lambda trial: trial.suggest_float("learning_rate", 0.001, 0.002), n_trials=3)
    pictures.log(run, search, ["learning_rate"], "control_")
    drawn = {call.args[1] for call in run.log_figure.call_args_list}
    names = ("history", "slice", "importances", "intermediate_values")
    assert drawn == {f"control_{name}.png" for name in names}
    assert run.log_text.call_args.args[1] == "control_study.html"
