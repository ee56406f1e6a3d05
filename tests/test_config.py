"""Parameters: their defaults, what is refused, how they are written as text."""

from pathlib import Path
from typing import get_args

import pytest
from helpers import parameters
from pydantic import ValidationError

from kdflow.catalogue.networks import NETWORKS
from kdflow.config.base import canonical, first_problem
from kdflow.config.training import OptimizerName, ScheduleName, recipe
from kdflow.config.views import MAX_VIEWS, ViewSetConfig
from kdflow.steps import STEPS
from kdflow.steps.baseline import BaselineConfig
from kdflow.steps.distill import DistillConfig
from kdflow.steps.export_logits import ExportLogitsConfig
from kdflow.steps.hint import HintConfig
from kdflow.steps.teacher import TeacherConfig


def test_the_notebooks_recipe_is_the_default_on_cifar10() -> None:
    teacher, student = parameters(TeacherConfig), parameters(BaselineConfig)
    assert (teacher.arch, teacher.optimizer, teacher.learning_rate) == ("vgg", "sgd", 0.01)
    assert (teacher.batch_size, teacher.epochs) == (128, 40)
    assert (student.student, student.optimizer, student.learning_rate) == ("student", "adam", 0.001)
    assert (student.batch_size, student.epochs) == (64, 30)


def test_the_recipe_follows_the_network_and_what_is_given_wins() -> None:
    pupil = parameters(BaselineConfig, student="pupil", batch_size=7)
    assert (pupil.epochs, pupil.batch_size) == (20, 7)


@pytest.mark.parametrize(
    ("dataset", "network", "learning_rate", "epochs", "batch_size"),
    [
        ("cifar10", "vgg", 0.01, 40, 128),
        ("digits", "student", 0.001, 30, 32),
        ("digits", "vgg", 0.0005, 40, 32),  # the network's own for the digits has the last word
    ],
)
def test_a_recipe_is_the_networks_changed_by_the_data_set_changed_by_the_network_for_it(
    dataset: str, network: str, learning_rate: float, epochs: int, batch_size: int
) -> None:
    found = recipe(dataset, network)
    assert (found.learning_rate, found.epochs, found.batch_size) == (
        learning_rate,
        epochs,
        batch_size,
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_every_network_can_be_trained_by_default_on_every_data_set(
    network: str, dataset: str
) -> None:
    config = parameters(TeacherConfig, arch=network, dataset=dataset)
    assert config.optimizer == recipe(dataset, network).optimizer
    assert config.dropout == (NETWORKS[network].dropout or 0)


def test_distill_defaults_are_those_of_the_design() -> None:
    distill = parameters(DistillConfig)
    assert (distill.temp, distill.alpha, distill.t_squared, distill.views) == (4, 0.9, True, 1)
    assert distill.loss == "kd"
    assert (distill.teacher, distill.holdout, distill.seed) == ("auto", 0.1, 0)
    assert distill.init == "none"


@pytest.mark.parametrize("dataset", ["cifar10", "digits"])
def test_hints_have_settings_of_their_own_on_every_data_set(dataset: str) -> None:
    hint = parameters(HintConfig, dataset=dataset)
    assert (hint.epochs, hint.batch_size, hint.learning_rate) == (10, 128, 0.001)
    assert (hint.student, hint.teacher, hint.seed) == ("student", "auto", 0)
    assert (hint.hint_layer, hint.guided_layer) == ("auto", "auto")


def test_a_loss_has_its_own_weights_and_is_named_unless_it_is_kd() -> None:
    decoupled = parameters(DistillConfig, loss="dkd", dkd_beta=4, temp=8)
    assert decoupled.weights == {"dkd_alpha": 1, "dkd_beta": 4}
    assert decoupled.objective == "dkd T=8 alpha=0.9"
    correlated = parameters(DistillConfig, loss="dist", dist_gamma=0)
    assert correlated.weights == {"dist_beta": 1, "dist_gamma": 0}
    plain = parameters(DistillConfig)
    assert (plain.weights, plain.objective) == ({}, "T=4 alpha=0.9")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temp": "0"}, "temp: expected greater than or equal to 0.01, got '0'"),
        # z / T overflows long before the smallest number: the loss would be blamed
        ({"temp": "1e-300"}, "temp: expected greater than or equal to 0.01, got '1e-300'"),
        ({"temp": "0.0099"}, "temp: expected greater than or equal to 0.01, got '0.0099'"),
        (
            {"temp": "warm"},
            "temp: expected a valid number, got 'warm'",
        ),
        ({"temp": "inf"}, "temp: expected a finite number, got 'inf'"),
        ({"temp": "nan"}, "temp: expected a finite number, got 'nan'"),
        ({"alpha": "1.01"}, "alpha: expected less than or equal to 1, got '1.01'"),
        ({"alpha": "-0.1"}, "alpha: expected greater than or equal to 0, got '-0.1'"),
        (
            {"student": "giant"},
            "student: expected 'vgg', 'fast', 'student', 'pupil', 'fitnet', 'resnet20',"
            " 'whitened', 'dense', 'broad', 'compact', 'mini', or one of your own, x.keras,"
            " x.py:function or"
            " applications:MobileNetV3Small, got 'giant'",
        ),
        (
            {"dataset": "mnist"},
            "dataset: expected cifar10, cifar100, fashion_mnist, digits, the path of a folder of"
            f" photos or the path of an .npz file (relative paths start in {Path.cwd()}), got"
            " 'mnist'",
        ),
        # only a folder of photos takes these
        (
            {"dataset": "digits", "image_size": "32"},
            "image_size: expected no value, or 0, with dataset=digits, which does not use it, got"
            " '32'",
        ),
        (
            {"dataset": "own.npz", "skip_bad": "true"},
            "skip_bad: expected no value, or false, with dataset=own.npz, which does not use it,"
            " got 'true'",
        ),
        (
            {"dataset": "photos/", "image_size": "-1"},
            "image_size: expected greater than or equal to 0, got '-1'",
        ),
        (
            {"dataset": "photos/", "test_share": "1"},
            "test_share: expected less than or equal to 0.9, got '1'",
        ),
        ({"epochs": "0"}, "epochs: expected greater than or equal to 1, got '0'"),
        (
            {"precision": "float16"},
            "precision: expected 'auto', 'float32' or 'bfloat16', got 'float16'",
        ),
        ({"views": "163"}, "views: expected less than or equal to 162, got '163'"),
        ({"holdout": "0.6"}, "holdout: expected less than or equal to 0.5, got '0.6'"),
        ({"temp": "1e200"}, "temp: expected less than or equal to 1000, got '1e200'"),
        ({"batch_size": "9" * 20}, f"batch_size: expected less than 2147483648, got '{'9' * 20}'"),
        (
            {"holdout": "0", "evaluate_test": "false"},
            "evaluate_test: expected true with holdout=0, which validates on the test set, got"
            " 'false'",
        ),
        ({"plan_only": "yess"}, "plan_only: expected true or false, got 'yess'"),
        ({"tmep": "4"}, "tmep: no such parameter"),
        ({"loss": "mse"}, "loss: expected 'kd', 'dkd', 'dist' or 'ls', got 'mse'"),
        (
            {"dkd_beta": "4"},
            "dkd_beta: expected no value, or 8, with loss=kd, which does not use it, got '4'",
        ),
        (
            {"loss": "ls", "dist_gamma": "2"},
            "dist_gamma: expected no value, or 1, with loss=ls, which does not use it, got '2'",
        ),
        (
            {"loss": "dkd", "dkd_beta": "-1"},
            "dkd_beta: expected greater than or equal to 0, got '-1'",
        ),
    ],
)
def test_a_refusal_names_parameter_expectation_and_value(
    values: dict[str, str], message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        parameters(DistillConfig, **values)
    assert first_problem(refused.value) == message


@pytest.mark.parametrize(
    ("text", "value"), [("False", False), ("false", False), ("0", False), ("true", True)]
)
def test_booleans_are_read_as_a_person_writes_them(text: str, value: bool) -> None:
    assert parameters(DistillConfig, evaluate_test=text).evaluate_test is value


def test_only_the_parameters_that_shape_the_result_are_used() -> None:
    # neither the weights of other losses nor how the step is run, in a run and in its key
    assert {"dkd_alpha", "dkd_beta"} <= parameters(DistillConfig, loss="dkd").used().keys()
    others = {"dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma"}
    how_to_run = {"plan_only", "resume", "reuse", "traceback", "allow_weak_teacher", "deploy"}
    for step in STEPS.values():
        assert not (others | how_to_run) & parameters(step.config).used().keys(), step.name


def test_what_a_folder_of_photos_is_loaded_with_is_logged_for_it_alone() -> None:
    photos = parameters(DistillConfig, dataset="photos/", image_size=96)
    options = {"image_size": 96, "test_share": 0.2, "skip_bad": False}
    assert photos.dataset_options == options
    assert options.items() <= photos.used().items()
    assert not options.keys() & parameters(DistillConfig).used().keys()


def test_every_parameter_has_a_line_of_help() -> None:
    for step in STEPS.values():
        assert step.config.__doc__
        for name, field in step.config.model_fields.items():
            assert field.description, name


def test_views_go_up_to_all_there_are() -> None:
    from kdflow.views import VIEW_SETS

    assert {len(each) for each in VIEW_SETS.values()} == {MAX_VIEWS}
    fields = ViewSetConfig.model_fields
    assert set(get_args(fields["view_set"].annotation)) == set(VIEW_SETS)


def test_the_optimisers_and_schedules_that_can_be_chosen_are_those_that_exist() -> None:
    from kdflow.training.optimizers import OPTIMIZERS
    from kdflow.training.schedules import SCHEDULES

    assert set(get_args(OptimizerName)) == set(OPTIMIZERS)
    assert set(get_args(ScheduleName)) == set(SCHEDULES)


@pytest.mark.parametrize("config", [DistillConfig, BaselineConfig, ExportLogitsConfig])
def test_one_view_is_the_image_itself_in_any_set(config: type[ViewSetConfig]) -> None:
    count = config.views_field
    with pytest.raises(ValidationError, match=f"view_set: expected shifts with {count}=1"):
        parameters(config, dataset="digits", view_set="photos", **{count: 1})
    assert parameters(config, dataset="digits", view_set="photos", **{count: 2}).view_count == 2


def test_a_default_that_is_given_makes_the_same_config() -> None:
    defaults = parameters(DistillConfig).model_dump()
    given = parameters(
        DistillConfig, **{name: canonical(value) for name, value in defaults.items()}
    )
    assert repr(given.model_dump()) == repr(defaults)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"weight_decay": 0.1}, "weight_decay: expected 0 with optimizer=adam, got 0.1"),
        (
            {"warmup": 2, "schedule": "triangular"},
            "warmup: expected 0 with schedule=triangular, which has a warmup, got 2",
        ),
        ({"warmup": 5, "epochs": 5}, "warmup: expected fewer epochs than all 5, got 5"),
        (
            {"keep": "best_loss", "holdout": 0},
            "keep: expected last with holdout=0, whose validation is the test set, got 'best_loss'",
        ),
        (
            {"patience": 3, "holdout": 0},
            "patience: expected 0 with holdout=0, whose validation is the test set, got 3",
        ),
        ({"ema": 1}, "ema: expected less than 1, got 1"),
        ({"class_weight": "some"}, "class_weight: expected 'none' or 'balanced', got 'some'"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(
    values: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValidationError) as error:
        parameters(DistillConfig, **values)
    assert first_problem(error.value) == expected


def test_every_step_that_trains_or_exports_takes_a_precision_and_logs_what_auto_stands_for() -> (
    None
):
    for name, step in STEPS.items():
        if name == "deploy":  # which trains with simulated rounding, in float32
            assert "precision" not in step.config.model_fields
            continue
        config = parameters(step.config)
        assert config.model_dump()["precision"] == "auto"
        assert config.used()["precision"] == "float32"
        assert "precision" not in config.keyed()
        asked = parameters(step.config, precision="bfloat16")
        assert asked.keyed()["precision"] == asked.used()["precision"] == "bfloat16"


def test_trainings_get_the_precision() -> None:
    assert parameters(DistillConfig).settings.precision == "float32"
    assert parameters(DistillConfig, precision="bfloat16").settings.precision == "bfloat16"
    assert parameters(HintConfig, precision="bfloat16").settings.precision == "bfloat16"


def test_settings_at_their_defaults_are_neither_logged_nor_in_a_key() -> None:
    names = {"weight_decay", "warmup", "clip_norm", "ema", "class_weight", "keep", "patience"}
    names.add("label_smoothing")
    config = parameters(DistillConfig)
    assert not names & config.used().keys()
    assert not names & config.keyed().keys()
    chosen = parameters(DistillConfig, ema=0.99, class_weight="balanced")
    assert names & chosen.used().keys() == {"ema", "class_weight"}
