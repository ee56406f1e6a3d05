"""What names a result: a run with the key of what a step would make is that step's result."""

import hashlib
import json
from typing import Any

import mlflow
import pytest
from helpers import made_by, parameters, resolver
from mlflow.entities import Run
from pydantic import Field

from kdflow.config.base import Config
from kdflow.needs import Found, LayersOf, LogitsOf, ModelOf, Planned, training
from kdflow.reuse import Resolver
from kdflow.steps.baseline import BASELINE, BaselineConfig
from kdflow.steps.distill import DistillConfig
from kdflow.steps.hint import HintConfig
from kdflow.steps.run import load

pytestmark = pytest.mark.usefixtures("all_untrained", "shared_store", "cache")

SMALL: dict[str, Any] = {"dataset": "digits", "student": "pupil", "epochs": 1}


def baseline_key(config: Config, resolver: Resolver) -> str:
    return resolver.key(Planned(BASELINE, config))


def hashed(*described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def test_a_key_is_the_hash_of_step_parameters_images_and_content() -> None:
    params = {
        **{"holdout": 0.1, "epochs": 1, "batch_size": 32, "learning_rate": 0.001},
        **{"optimizer": "adam", "schedule": "constant", "dropout": 0.2},
        **{"seed": 0, "evaluate_test": True, "student": "pupil", "augment": 1},
    }
    key = baseline_key(parameters(BaselineConfig, **SMALL), resolver())
    assert key == hashed("baseline", params, load("digits", 0.1).digest, {})


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"epochs": 2}, {"learning_rate": 0.002}, {"student": "student"}]
)
def test_keys_differ_with_each_parameter(other: dict[str, Any]) -> None:
    one, another = parameters(BaselineConfig, **SMALL), parameters(BaselineConfig, **SMALL | other)
    assert baseline_key(one, resolver()) != baseline_key(another, resolver())


@pytest.mark.parametrize("other", [{"plan_only": True}, {"resume": "never"}, {"traceback": True}])
def test_a_key_is_not_of_how_a_step_is_run(other: dict[str, Any]) -> None:
    one, another = parameters(BaselineConfig, **SMALL), parameters(BaselineConfig, **SMALL | other)
    assert baseline_key(one, resolver()) == baseline_key(another, resolver())


class _WithOneMore(BaselineConfig):
    """A later version of the step, with a parameter that changes nothing at 0."""

    margin: float = Field(0, description="a margin", json_schema_extra={"neutral": 0})


class _WithOneThatAlwaysCounts(BaselineConfig):
    margin: float = Field(0, description="a margin")


def test_a_parameter_added_at_its_neutral_value_keeps_the_key() -> None:
    # or the runs of before it was added would be made again
    before = baseline_key(parameters(BaselineConfig, **SMALL), resolver())
    assert baseline_key(parameters(_WithOneMore, **SMALL), resolver()) == before
    assert baseline_key(parameters(_WithOneMore, **SMALL, margin=0.5), resolver()) != before
    assert baseline_key(parameters(_WithOneThatAlwaysCounts, **SMALL), resolver()) != before


def test_a_key_has_the_precision_that_auto_stands_for_and_float32_is_neutral(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # or the runs of before the parameter existed, in float32, would be made again, and runs of
    # another precision taken for them
    def key(**precision: str) -> str:
        return baseline_key(parameters(BaselineConfig, **SMALL, **precision), resolver())

    auto, float32, bfloat16 = key(), key(precision="float32"), key(precision="bfloat16")
    assert auto == float32 != bfloat16
    monkeypatch.setattr("kdflow.config.precision.native_precision", lambda: "bfloat16")
    assert key() == key(precision="auto") == bfloat16
    assert key(precision="float32") == float32


def test_the_weights_of_other_losses_are_not_in_a_key() -> None:
    # or a loss that is added to the catalogue would make every earlier run be made again
    keyed = parameters(DistillConfig, dataset="digits").keyed()
    assert not {"dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma"} & keyed.keys()
    keyed = parameters(DistillConfig, dataset="digits", loss="dkd").keyed()
    assert {"dkd_alpha", "dkd_beta"} <= keyed.keys()


def test_the_key_has_the_layers_that_auto_stands_for(first: list[Run]) -> None:
    digits = resolver()

    def key(**layers: str) -> str:
        values = {"dataset": "digits", "teacher": "pupil", "student": "pupil"}
        return digits.key(digits.with_inputs("hint", parameters(HintConfig, **values, **layers)))

    auto = key()
    assert key(hint_layer="pool1", guided_layer="pool1") == auto
    assert key(hint_layer="pool1") == auto
    assert key(hint_layer="conv1", guided_layer="conv1") != auto


# --- what kdflow 0.1 made ------------------------------------------------------------------------

# A baseline of one epoch of `pupil` on the digits, as kdflow 0.1 tagged it.
KEY_OF_0_1 = "4b3dcc4543bc4feea3faf576ab37887cd28f4a25ba2544c98ed860b1a40cb993"


@pytest.fixture(scope="module")
def store_of_0_1(all_untrained: None, first: list[Run]) -> dict[str, str]:
    """The ids of runs that carry the keys that kdflow 0.1 gave them, by step: a hash of all
    parameters as asked for, `auto` too, and of the ids of the runs that they are made from."""
    distilled, exported, teacher = first
    small = ["--dataset", "digits", "--epochs", "1", "--student", "pupil"]
    (baseline,) = made_by(["baseline", *small])
    (hint,) = made_by(["hint", "--dataset", "digits", "--teacher", "pupil", "--student", "pupil"])
    digest = load("digits", 0.1).digest
    ids = {
        "distill": distilled.info.run_id,
        "export_logits": exported.info.run_id,
        "teacher": teacher.info.run_id,
        "hint": hint.info.run_id,
        "baseline": baseline.info.run_id,
    }
    usual = {
        **{"holdout": 0.1, "batch_size": 32, "learning_rate": 0.001, "seed": 0},
        **{"optimizer": "adam", "schedule": "constant", "evaluate_test": True},
    }
    of_teacher = {"epochs": 3, "augment": 1, "dropout": 0.2, "arch": "pupil"}
    of_hint = {
        **{"holdout": 0.1, "student": "pupil", "hint_layer": "auto", "guided_layer": "auto"},
        **{"epochs": 10, "batch_size": 128, "learning_rate": 0.001, "seed": 0},
    }
    of_distill = {
        **{"epochs": 2, "student": "student", "dropout": 0.3, "views": 1},
        **{"temp": 8.0, "alpha": 0.9, "t_squared": True},
        **{"loss": "kd", "dkd_alpha": 1.0, "dkd_beta": 8.0, "dist_beta": 1.0, "dist_gamma": 1.0},
    }
    taught = {"teacher": ids["export_logits"]}
    keys = {
        "teacher": hashed("teacher", usual | of_teacher | {"label_smoothing": 0.0}, digest, {}),
        "export_logits": hashed(
            "export_logits", {"holdout": 0.1, "views": 1}, digest, {"model": ids["teacher"]}
        ),
        "hint": hashed("hint", of_hint, digest, {"teacher": ids["teacher"]}),
        "distill": hashed("distill", usual | of_distill, digest, taught),
        "baseline": KEY_OF_0_1,
    }
    for step, run_id in ids.items():
        mlflow.MlflowClient().set_tag(run_id, "kdflow.key", keys[step])
        mlflow.MlflowClient().set_tag(run_id, "kdflow.code_sha256", "that of 0.1")
    return ids


def test_what_kdflow_0_1_made_is_found(store_of_0_1: dict[str, str]) -> None:
    distilled: dict[str, Any] = {"dataset": "digits", "teacher": "pupil", "epochs": 2, "temp": 8}
    needs = {
        "teacher": ModelOf("pupil", 0.1),
        "export_logits": LogitsOf("pupil", 0.1),
        "hint": LayersOf("auto", "pupil", "pupil", 0.1),
        "baseline": training("baseline", **SMALL),
        "distill": training("distill", **distilled),
    }
    any_code = resolver("any")
    for step, need in needs.items():
        plan = any_code.plan(need)
        assert isinstance(plan, Found), step
        assert plan.result.source == store_of_0_1[step], step
    # its code was another, so that its trainings are not compared with those of this code
    same_code = resolver("same_code")
    assert isinstance(same_code.plan(needs["baseline"]), Planned)
    assert isinstance(same_code.plan(needs["teacher"]), Found)


def test_a_setting_that_kdflow_0_1_did_not_run_with_is_not_found(
    store_of_0_1: dict[str, str],
) -> None:
    other = training("baseline", dataset="digits", student="pupil", epochs=1, seed=1)
    assert isinstance(resolver("any").plan(other), Planned)
