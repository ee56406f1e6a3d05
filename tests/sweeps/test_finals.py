"""The finals: who reaches them, how they are named, and how often chance alone beats."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate.compare import BEATS
from kdflow.sources import own_networks
from kdflow.steps.baseline import BaselineConfig
from sweeps.driver import finals
from sweeps.driver.config import trial_config, with_values
from sweeps.driver.study import load
from sweeps.driver.trials import Final, Order, check_networks, final_config, training_of

ORDER = Order(
    study="temperature_alpha",
    name="s",
    storage="",
    heartbeat=1,
    sampler_seed=0,
    config=trial_config(load("temperature_alpha"), {}),
    initial={"none": "none"},
    parent="",
    budget=None,
    reuse="same_code",
)
REUSES = ("any", "same_code", "never")
DKD, KD = ({"loss": loss, "temp": 2.0} for loss in ("dkd", "kd"))


def study_of(results: list[tuple[dict[str, float], float]]) -> optuna.Study:
    """A study of complete trials with these settings and validation accuracies."""
    study = optuna.create_study(direction="maximize")
    for params, value in results:
        space: dict[str, BaseDistribution] = dict.fromkeys(params, FloatDistribution(1, 32))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return study


def save_network(file: Path, width: int) -> None:
    images = keras.Input((8, 8, 3))
    x = keras.layers.Dense(width)(keras.layers.Flatten()(images))
    keras.Model(images, keras.layers.Dense(3)(x)).save(file)


def test_the_best_settings_are_different_ones_and_of_equal_ones_the_earliest_is_first() -> None:
    results = [
        ({"temp": 1.0}, 0.5),
        ({"temp": 2.0}, 0.7),
        ({"temp": 3.0}, 0.7),
        ({"temp": 2.0}, 0.9),
    ]
    study = study_of(results)
    assert finals.best_settings(study, 2) == [{"temp": 2.0}, {"temp": 3.0}]
    assert finals.best_settings(study, 9) == [{"temp": 2.0}, {"temp": 3.0}, {"temp": 1.0}]


def test_without_a_complete_trial_there_are_no_finals() -> None:
    with pytest.raises(KdflowError, match="expected a complete trial, got 0 failed and 0 pr"):
        finals.best_settings(optuna.create_study(), 1)


def test_finals_train_on_seeds_that_no_trial_had_and_each_different_baseline_once() -> None:
    settings = [{"temp": 2.0}, {"temp": 4.0}, {"temp": 2.0, "views": 2}]
    trainings = finals.trainings(ORDER, settings, repeats=2)
    assert [(each.values, each.seed) for each in trainings if each.taught] == [
        (values, seed) for values in settings for seed in (1, 2)
    ]
    alone = [training_of(ORDER, each) for each in trainings if not each.taught]
    assert all(isinstance(each, BaselineConfig) for each in alone)
    assert [(each.augment, each.seed) for each in alone if isinstance(each, BaselineConfig)] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]


def test_a_finalist_differs_from_its_trial_in_the_seed_and_in_reading_the_test_set() -> None:
    config = final_config(ORDER, Final({"temp": 2.0}, 7, taught=True))
    trial = ORDER.config.model_dump() | {"temp": 2.0}
    assert config.model_dump() == trial | {"seed": 7, "evaluate_test": True}
    assert not trial["evaluate_test"]


def test_workers_train_the_network_that_the_sweep_began_with(tiny: Dataset, tmp_path: Path) -> None:
    check_networks(ORDER, tiny)  # of the catalogue
    file = tmp_path / "net.keras"
    save_network(file, width=8)
    config = with_values(ORDER.config, {"student": str(file)})
    order = replace(ORDER, config=config, networks=own_networks(config, tiny))
    check_networks(order, tiny)
    save_network(file, width=9)
    with pytest.raises(KdflowError, match=f"^student: expected the network .* in {file}, got ano"):
        check_networks(order, tiny)


def test_finals_have_another_name_once_the_code_of_one_of_them_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = {"kd": "1", "dkd": "1", None: "1"}  # of the losses, and of training from labels

    def code_of(step: str, used: Mapping[str, Any]) -> str:
        return code[used.get("loss")]

    monkeypatch.setattr(finals, "code_of", code_of)
    orders = [replace(ORDER, reuse=reuse) for reuse in ("same_code", "never", "any")]
    trainings = finals.trainings(ORDER, [DKD], repeats=2)
    before = [finals.name_of(order, trainings) for order in orders]
    code["kd"] = "2"  # which no finalist uses
    assert [finals.name_of(order, trainings) for order in orders] == before
    for edited in ("dkd", None):
        code[edited] = "3"
        after = [finals.name_of(order, trainings) for order in orders]
        assert after[0] != before[0]
        assert after[1] != before[1]
        assert after[2] == before[2]
        before = after


def test_other_finalists_are_other_finals() -> None:
    names = {
        finals.name_of(ORDER, finals.trainings(ORDER, settings, repeats))
        for settings, repeats in (([DKD], 2), ([KD], 2), ([DKD, KD], 2), ([DKD], 3))
    }
    assert len(names) == 4
    assert all(name.startswith("s finals ") for name in names)


def test_there_is_no_verdict_while_a_training_of_the_finals_has_failed() -> None:
    trainings = finals.trainings(ORDER, [{"temp": 2.0}], repeats=2)
    held = optuna.create_study(direction="maximize", study_name="held")
    for index in (0, 1, 3):
        held.add_trial(
            optuna.trial.create_trial(
                params={"final": index},
                distributions={"final": IntDistribution(0, 3)},
                value=0.5,
                user_attrs={"run_id": ""},
            )
        )
    with pytest.raises(
        KdflowError,
        match=r"held: expected 4 finished trainings, got 3; the baseline beside temp=2.0, seed 1,",
    ):
        finals.results(replace(ORDER, finals=trainings), held)


@pytest.mark.slow
@pytest.mark.parametrize("best", [1, 3])
def test_over_studies_of_noise_a_finalist_beats_in_at_most_5_percent(best: int) -> None:
    rng, studies, repeats, beaten = np.random.default_rng(best), 400, 5, 0
    for _ in range(studies):
        worth: dict[tuple[str, int], float] = defaultdict(rng.normal)  # of settings and seeds
        tried = [{"temp": 1.0 + number} for number in range(20)]
        study = study_of([(params, worth[str(params), ORDER.config.seed]) for params in tried])
        settings = finals.best_settings(study, best)
        trainings = finals.trainings(ORDER, settings, repeats)
        held = optuna.create_study(direction="maximize")
        for index, final in enumerate(trainings):
            trained = str(final.values) if final.taught else "labels alone"
            held.add_trial(
                optuna.trial.create_trial(
                    params={"final": index},
                    distributions={"final": IntDistribution(0, 99)},
                    value=worth[trained, final.seed],
                    user_attrs={"run_id": ""},
                )
            )
        table = finals.results(replace(ORDER, finals=trainings), held)
        verdicts = finals.verdicts(table, repeats)
        beaten += any(result.verdict == BEATS for result in verdicts)
    # two-sided tests at 5 % should give 2.5 %, 10 of 400; 20 would be 3 standard deviations more
    assert 0 < beaten <= 0.05 * studies


def test_finals_that_reuse_nothing_have_a_name_of_their_own() -> None:
    trained = finals.trainings(ORDER, [{"temp": 2.0}], repeats=2)
    names = {finals.name_of(replace(ORDER, reuse=it), trained) for it in REUSES}
    assert len(names) == len(REUSES)
