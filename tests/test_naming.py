"""Runs' names differ at their front, and are short."""

from typing import Any

import pytest
import tensorflow
from helpers import parameters

from kdflow.config.base import Config
from kdflow.naming import LONGEST, run_name, scope_name, short_source
from kdflow.steps import STEPS

LONG: dict[str, Any] = {
    **{"dataset": "digits", "temp": 12.3456, "alpha": 0.98765, "loss": "dist", "init": "auto"},
    **{"seed": 2**31 - 200, "seeds": 100, "student": "applications:MobileNetV3Small"},
    **{"teacher": "vgg", "chain": "fast,student,fitnet,pupil", "arch": "student", "views": 162},
    "model": "runs:/0123456789abcdef0123456789abcdef/a-model-with-a-long-name",
}


def config_of(step: str, **values: Any) -> Config:
    fields = STEPS[step].config.model_fields
    given = {name: value for name, value in (LONG | values).items() if name in fields}
    return parameters(STEPS[step].config, **given)


@pytest.mark.parametrize("step", STEPS)
def test_a_name_has_at_most_40_characters(step: str) -> None:
    assert len(STEPS[step].title(config_of(step))) <= 40 == LONGEST


@pytest.mark.parametrize("other", [{"temp": 8}, {"alpha": 0.5}, {"seed": 3}, {"loss": "dkd"}])
@pytest.mark.parametrize("step", ["distill", "compare", "main", "assistant"])
def test_what_differs_is_not_cut_off(step: str, other: dict[str, Any]) -> None:
    title = STEPS[step].title
    assert title(config_of(step, **other)) != title(config_of(step))


def test_a_name_as_it_is_read() -> None:
    title = STEPS["distill"].title
    given = {"dataset": "digits", "temp": 8, "student": "student"}
    config = parameters(STEPS["distill"].config, **given, teacher="fast")
    assert title(config) == "T=8 alpha=0.9 s0 distill student<-fast"
    assert len(title(config)) == 38
    config = parameters(STEPS["distill"].config, **given, init="auto")
    assert title(config) == "T=8 alpha=0.9 hint s0 distill student"


def test_long_names_are_cut_and_empty_parts_left_out() -> None:
    assert run_name("a", "", "b") == "a b"
    assert run_name("x" * 40) == "x" * 40
    assert run_name("x" * 41) == "x" * 37 + "..."


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("0123456789abcdef0123456789abcdef", "01234567"),
        ("some/where/flowers.keras", "flowers.keras"),
        ("models:/flowers/3", "models:/flowers/3"),
        ("auto", "auto"),
    ],
)
def test_a_source_is_named_by_its_end(source: str, short: str) -> None:
    assert short_source(source) == short


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet-18_v1.5", "resnet-18_v1.5"),
        ("Mein Modell ü", "Mein_Modell__"),
        ("blumen(1)", "blumen_1_"),
        ("_x", "own_x"),
        ("-x", "own-x"),
        ("", "own"),
    ],
)
def test_a_models_name_has_the_characters_that_tensorflow_allows(text: str, expected: str) -> None:
    assert scope_name(text) == expected
    with tensorflow.Graph().as_default(), tensorflow.name_scope(expected):
        pass
