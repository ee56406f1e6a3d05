"""What the studies' files state, and the command line that runs them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from kdflow.errors import KdflowError
from kdflow.steps.distill import DistillConfig
from sweeps.__main__ import main, parse
from sweeps.driver import study as studies
from sweeps.driver.config import FIXED_FIELDS, SweepConfig, trial_config, with_values
from sweeps.driver.sampling import SeededByTrial
from sweeps.driver.study import Study, load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", studies.names())
def test_every_study_searches_parameters_of_distill_with_values_that_it_takes(name: str) -> None:
    study = load(name)
    config = trial_config(study, {"dataset": "digits"})
    assert not config.evaluate_test
    search = optuna.create_study(sampler=study.sampler(0))
    for _ in range(5):
        trial = search.ask()
        values = study.suggest(trial)
        assert set(values) == set(study.space)
        taken = with_values(config, values).model_dump()
        assert {name: taken[name] for name in values} == pytest.approx(values)
        search.tell(trial, 0)


def test_the_notebooks_grid_has_all_its_points_once() -> None:
    study = load("notebook_grid")
    tried = [(point["temp"], point["alpha"]) for point in study.points]
    assert sorted(tried) == [(t, a) for t in range(2, 15, 2) for a in (0.3, 0.5, 0.7, 0.9)]
    assert len(tried) == study.trials == 28


@pytest.mark.parametrize("name", studies.names())
def test_the_points_of_a_study_are_in_its_space(name: str) -> None:
    study = load(name)
    for point in study.points:
        assert set(point) == set(study.space)
        for parameter, value in point.items():
            space = study.space[parameter]
            assert space._contains(space.to_internal_repr(value))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"tmep": FloatDistribution(1, 2)}, "tmep: a study cannot search it; expected one of loss"),
        (
            {"teacher": CategoricalDistribution(["vgg"])},
            "teacher: a study cannot search it; expected one of",
        ),
        (
            {"evaluate_test": CategoricalDistribution([True])},
            "evaluate_test: a study cannot search it",
        ),
        ({"seed": IntDistribution(0, 9)}, "seed: a study cannot search it; expected one of"),
        ({"alpha": FloatDistribution(0, 2)}, "alpha: expected less than or equal to 1, got 2"),
        ({"loss": CategoricalDistribution(["kd", "mse"])}, "loss: expected 'kd', 'dkd', "),
    ],
)
def test_a_study_that_searches_what_it_must_not_is_refused_before_anything_is_made(
    space: dict[str, BaseDistribution], message: str
) -> None:
    study = Study(space=space, trials=1, cost="none")
    with pytest.raises(KdflowError, match=re.escape(message)):
        trial_config(study, {})


def test_a_study_whose_trials_all_have_several_views_can_search_those_of_photos() -> None:
    study = Study(space={"views": CategoricalDistribution([18, 36])}, trials=1, cost="none")
    assert trial_config(study, {"view_set": "photos"}).view_set == "photos"


def test_what_a_value_of_the_search_would_refuse_is_refused_at_once() -> None:
    with pytest.raises(KdflowError, match=r"dkd_beta: expected no value, or 8\S* with loss=kd"):
        trial_config(load("recipe"), {"dkd_beta": "4"})


def _study(storage: optuna.storages.BaseStorage, seed: int = 3) -> optuna.Study:
    sampler = SeededByTrial(load("temperature_alpha").sampler, seed)
    return optuna.create_study(
        storage=storage, study_name="s", sampler=sampler, load_if_exists=True
    )


def test_workers_that_start_together_draw_different_values() -> None:
    storage = optuna.storages.InMemoryStorage()
    space = load("temperature_alpha")
    trials = [_study(storage).ask(), _study(storage).ask()]  # two processes with one seed
    first, second = (space.suggest(trial) for trial in trials)
    assert first["temp"] != second["temp"]
    assert first["alpha"] != second["alpha"]


def test_a_study_that_is_resumed_draws_as_if_it_had_never_stopped() -> None:
    def drawn(stops: int) -> list[dict[str, float]]:
        storage = optuna.storages.InMemoryStorage()
        for part in range(stops + 1):
            study = _study(storage)
            study.optimize(
                lambda trial: sum(load("temperature_alpha").suggest(trial).values()),
                n_trials=12 if not stops else 9 - 6 * part,
            )
        return [trial.params for trial in study.trials]

    whole = drawn(stops=0)
    assert whole == drawn(stops=1)
    assert len({tuple(params.values()) for params in whole}) == 12


def test_what_the_user_asks_for_reaches_every_trial_and_the_rest_is_the_studys() -> None:
    config, _, base = parse(
        ["temperature_alpha", "--trials", "7", "--dataset", "digits", "--epochs", "5"]
    )
    assert (config.trials, config.workers, config.best, config.repeats) == (7, 1, 1, 5)
    assert base == DistillConfig(  # type: ignore[call-arg]
        dataset="digits", epochs=5, evaluate_test=False
    )
    assert parse(["temperature_alpha"])[0].trials == load("temperature_alpha").trials


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("notebook_grid --reuse yes", "reuse: expected 'same_code', 'any' or 'never', got 'yes'"),
        ("notebook", "study: expected one of augmented, hint_or_not, notebook_grid, "),
        ("driver", "study: expected one of augmented, "),
        ("notebook_grid --trials 0", "trials: expected greater than or equal to 1, got '0'"),
        ("notebook_grid --temp 2", "temp: expected no value, as the study searches it, got '2'"),
        ("notebook_grid --tmep 2", "unrecognized arguments: --tmep 2"),
        ("notebook_grid --evaluate_test true", "unrecognized arguments: --evaluate_test true"),
        ("notebook_grid --holdout 0", "holdout: expected more than 0, as a sweep selects on"),
        ("notebook_grid --epochs 0", "epochs: expected greater than or equal to 1, got '0'"),
        ("notebook_grid --repeats 1", "repeats: expected greater than or equal to 2, got '1'"),
        ("recipe --control both", "control: expected 'fixed' or 'searched', got 'both'"),
        (
            "notebook_grid --control searched",
            "control: expected a study that searches a parameter of the baseline, such as"
            " learning_rate, got one of temp, alpha; use control=fixed or another study",
        ),
    ],
)
def test_bad_arguments_get_one_line_and_status_2(
    argv: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(argv.split())
    except SystemExit as ended:
        status = ended.code
    refused = capsys.readouterr().err
    assert status == 2
    assert message in refused
    assert refused.count("\n") == 1


def test_a_file_without_a_study_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sweeps

    (tmp_path / "empty.py").write_text("")
    monkeypatch.setattr(studies, "FOLDER", tmp_path)
    monkeypatch.setattr(sweeps, "__path__", [str(tmp_path)])
    with pytest.raises(KdflowError, match=r"a Study called STUDY in sweeps/empty.py"):
        load("empty")


def test_the_study_in_the_documentation_is_one() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text()
    [code] = re.findall(r"```python\n(\"\"\".*?from sweeps.*?)```", page, re.DOTALL)
    stated: dict[str, Any] = {}
    exec(code, stated)
    study = stated["STUDY"]
    config = trial_config(study, {})
    search = optuna.create_study(sampler=study.sampler(0))
    assert with_values(config, study.suggest(search.ask())).student == "pupil"
    assert len(code.splitlines()) <= 20


def test_help_lists_the_parameters_of_the_sweep_and_of_the_trials_without_loading_keras() -> None:
    code = (
        "import sys\nfrom sweeps.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'keras', 'mlflow', 'ray'} & set(sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    for field in {*SweepConfig.model_fields, *DistillConfig.model_fields} - {
        "study",
        *FIXED_FIELDS,
    }:
        assert f"--{field} " in shown, field
