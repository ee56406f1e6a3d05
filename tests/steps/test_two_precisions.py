"""Runs in bfloat16 and in float32 are never taken for each other, on the digits. What their figures
are does not matter here, so that nothing is learned."""

from typing import Any

import numpy as np
import pytest
from helpers import DISTILL, HINT, artifact, made_by, resolver
from mlflow.entities import Run

from kdflow.needs import Found, LayersOf, LogitsOf, ModelOf, Need, Planned, training

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("all_untrained", "shared_store", "cache"),
]

SMALL: dict[str, Any] = {"dataset": "digits", "student": "pupil", "epochs": 1}
BFLOAT16 = ["--precision", "bfloat16"]


def upstream(run: Run, role: str) -> str:
    return str(run.data.tags[f"kdflow.upstream.{role}"])


def found(need: Need) -> str | None:
    """The run that is found for a need."""
    plan = resolver().plan(need)
    return plan.result.source if isinstance(plan, Found) else None


@pytest.fixture(scope="module")
def rounded(first: list[Run]) -> list[Run]:
    """A distillation in bfloat16 where one in float32, its teacher and its logits are there."""
    return made_by([*DISTILL, "--temp", "8", *BFLOAT16])


def test_a_command_has_what_it_needs_made_in_its_own_precision(
    first: list[Run], rounded: list[Run]
) -> None:
    assert [run.data.params["precision"] for run in first] == ["float32"] * 3
    assert [run.data.tags["kdflow.step"] for run in rounded] == [
        "distill",
        "export_logits",
        "teacher",
    ]
    assert [run.data.params["precision"] for run in rounded] == ["bfloat16"] * 3
    distilled, exported, teacher = rounded
    assert upstream(distilled, "teacher") == exported.info.run_id
    assert upstream(exported, "model") == teacher.info.run_id


def test_each_is_found_for_its_own_precision_alone(first: list[Run], rounded: list[Run]) -> None:
    for precision, made in {"auto": first, "float32": first, "bfloat16": rounded}.items():
        given: Any = {"precision": precision}
        distilled, exported, teacher = (run.info.run_id for run in made)
        values = {"dataset": "digits", "teacher": "pupil", "epochs": 2, "temp": 8, **given}
        assert found(ModelOf("pupil", 0.1, **given)) == teacher
        assert found(LogitsOf("pupil", 0.1, **given)) == exported
        assert found(training("distill", **values)) == distilled


def test_on_a_machine_with_bfloat16_auto_finds_the_runs_in_it(
    first: list[Run], rounded: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdflow.config.precision.native_precision", lambda: "bfloat16")
    assert found(ModelOf("pupil", 0.1)) == rounded[2].info.run_id
    assert found(LogitsOf("pupil", 0.1)) == rounded[1].info.run_id
    assert found(ModelOf("pupil", 0.1, precision="float32")) == first[2].info.run_id


@pytest.mark.parametrize(("made", "asked"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_baseline_of_the_other_precision_is_not_compared(made: str, asked: str) -> None:
    seed = {"float32": 71, "bfloat16": 72}[made]
    argv = ["baseline", *(word for k, v in SMALL.items() for word in (f"--{k}", str(v)))]
    (run,) = made_by([*argv, "--seed", str(seed), "--precision", made])
    assert found(training("baseline", **SMALL, seed=seed, precision=made)) == run.info.run_id
    assert found(training("baseline", **SMALL, seed=seed, precision=asked)) is None


def test_a_teacher_of_the_other_precision_is_not_used_and_the_console_says_so_once(
    first: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    made_by(["teacher", "--dataset", "digits", "--arch", "mini", "--holdout", "0.2"])
    capsys.readouterr()
    plan = resolver().plan(LogitsOf("mini", 0.2, precision="bfloat16"))
    assert isinstance(plan, Planned)
    expected = (
        "teacher: 1 earlier run(s) in float32 are not used, as this run computes in bfloat16; to"
        " use one, set precision=float32, or name it by its id\n"
    )
    assert capsys.readouterr().out == expected
    assert isinstance(resolver().plan(ModelOf("mini", 0.3)), Planned)
    assert capsys.readouterr().out == ""


def test_a_run_that_is_named_is_used_whatever_its_precision(
    first: list[Run], rounded: list[Run]
) -> None:
    _, exported, teacher = (run.info.run_id for run in first)
    assert found(LogitsOf(exported, 0.1, precision="bfloat16")) == exported
    assert found(ModelOf(teacher, 0.1, precision="bfloat16")) == teacher
    # its logits in another precision are an export of their own
    assert found(LogitsOf(teacher, 0.1, precision="bfloat16")) is None


def test_exports_in_bfloat16_are_float32_numbers_near_those_in_float32(first: list[Run]) -> None:
    _, exported, teacher = first
    argv = ["export_logits", "--dataset", "digits", "--model", teacher.info.run_id]
    (rounded,) = made_by([*argv, *BFLOAT16])
    assert upstream(rounded, "model") == upstream(exported, "model")
    plain, near = (np.load(artifact(run, "logits/test_logits.npy")) for run in (exported, rounded))
    assert near.dtype == np.float32
    assert near == pytest.approx(plain, abs=0.05)
    assert not np.array_equal(near, plain)


def test_hints_are_found_for_their_own_precision_alone(
    first: list[Run], rounded: list[Run]
) -> None:
    layers = {"float32": made_by(HINT), "bfloat16": made_by([*HINT, *BFLOAT16])}
    assert [run.data.params["precision"] for (run,) in layers.values()] == [*layers]
    teachers = [upstream(run, "teacher") for (run,) in layers.values()]
    assert teachers == [first[2].info.run_id, rounded[2].info.run_id]


def test_a_hint_run_that_init_has_made_is_in_the_precision_of_the_distillation(
    first: list[Run], rounded: list[Run]
) -> None:
    made = made_by([*DISTILL, "--init", "auto", *BFLOAT16])
    hint = next(run for run in made if run.data.tags["kdflow.step"] == "hint")
    assert hint.data.params["precision"] == "bfloat16"
    need = LayersOf("auto", "student", "pupil", 0.1, precision="bfloat16")
    assert found(need) == hint.info.run_id
    assert found(LayersOf("auto", "student", "pupil", 0.1)) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["compare", "--student", "pupil", "--teacher", "pupil", "--seeds", "2"],
        ["main", "--student", "pupil", "--teacher", "pupil"],
        ["assistant", "--chain", "pupil,student,pupil"],
    ],
    ids=lambda argv: argv[0],
)
def test_all_that_a_step_has_made_is_in_its_precision(argv: list[str], first: list[Run]) -> None:
    made = made_by([argv[0], "--dataset", "digits", "--epochs", "1", *argv[1:], *BFLOAT16])
    assert len(made) > 3
    assert {run.data.params["precision"] for run in made} == {"bfloat16"}
