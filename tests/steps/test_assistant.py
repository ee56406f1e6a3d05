"""Chains of teaching assistants, on the digits."""

import re
from pathlib import Path

import pytest
from helpers import logged_table, runs
from mlflow.entities import Run

from kdflow.__main__ import main

# what the figures are does not matter here
pytestmark = pytest.mark.usefixtures("all_untrained", "shared_store")
ARGV = ["assistant", "--dataset", "digits", "--temp", "8", "--epochs", "2"]


@pytest.fixture(scope="module")
def made(all_untrained: None, shared_store: Path) -> list[Run]:
    """The runs of a first chain on an empty store."""
    assert main([*ARGV, "--chain", "pupil, student,pupil"]) == 0
    return runs()


@pytest.mark.slow
def test_each_hop_learns_from_the_one_before_beside_two_controls(made: list[Run]) -> None:
    parent, *others = made
    assert parent.info.run_name == "T=8 alpha=0.9 s0 assistant pupil,stud..."
    names = [run.info.run_name for run in others]
    student_id = others[2].info.run_id
    assert names == [
        "views=1 export_logits pupil",
        "s0 teacher pupil",
        "T=8 alpha=0.9 s0 distill student<-pupil",
        "T=8 alpha=0.9 s0 distill pupil",
        f"views=1 export_logits {student_id[:8]}",
        "s0 baseline pupil",
        "T=8 alpha=0.9 s0 distill pupil<-pupil",
    ]
    export, _, student, pupil, student_export, alone, straight = others
    taught_by = "kdflow.upstream.teacher"
    assert student.data.tags[taught_by] == straight.data.tags[taught_by] == export.info.run_id
    assert student_export.data.tags["kdflow.upstream.model"] == student.info.run_id
    assert pupil.data.tags[taught_by] == student_export.info.run_id
    trained = {student, pupil, alone, straight}
    assert {run.data.tags["mlflow.parentRunId"] for run in others} == {parent.info.run_id}
    assert {run.data.params["epochs"] for run in trained} == {"2"}


@pytest.mark.slow
def test_the_ledger_holds_what_the_runs_say(made: list[Run]) -> None:
    parent, export, teacher, student, pupil, _, alone, straight = made
    ledger = logged_table("ledger.json", parent)
    assert ledger["network"].tolist() == ["pupil", "student", "pupil", "pupil", "pupil"]
    assert ledger["how"].tolist() == [
        "teacher",
        "taught by pupil",
        "taught by student",
        "control: labels alone",
        "control: taught by pupil",
    ]
    in_order = [student, pupil, alone, straight]
    assert ledger["run"].tolist() == [run.info.run_id for run in [export, *in_order]]
    for metric in ("parameters", "test_accuracy", "test_nll", "test_ece", "teacher_agreement"):
        expected = [run.data.metrics.get(metric) for run in in_order]
        found = [None if value != value else value for value in ledger[metric][1:]]
        assert found == pytest.approx(expected), metric
        if metric != "teacher_agreement":
            assert ledger[metric][0] == pytest.approx(teacher.data.metrics[metric], rel=1e-4)
    metrics = parent.data.metrics
    assert metrics["test_accuracy"] == pupil.data.metrics["test_accuracy"]
    assert metrics["baseline_test_accuracy"] == alone.data.metrics["test_accuracy"]
    assert metrics["straight_test_accuracy"] == straight.data.metrics["test_accuracy"]
    (picture,) = Path(parent.info.artifact_uri).glob("ledger.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_what_exists_is_linked_and_not_moved(
    made: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ARGV, "--chain", "pupil,student,pupil"]) == 0
    assert len(runs()) == len(made) + 1
    ledgers = logged_table("ledger.json", made[0], runs()[-1])
    assert ledgers["run"].tolist()[:5] == ledgers["run"].tolist()[5:]
    assert [run.data.tags for run in runs()[:-1]] == [run.data.tags for run in made]
    shown = capsys.readouterr().out
    assert re.search(r"control: labels alone( +[\d,]+){3} +0\.\d{4} +-", shown), shown


@pytest.mark.slow
def test_a_chain_of_digits_networks_longer_than_two_hops(made: list[Run]) -> None:
    before = len(runs())
    assert main([*ARGV, "--chain", "pupil,student,student,pupil,pupil"]) == 0
    ledger = logged_table("ledger.json", runs()[before])
    assert len(ledger) == 7


def test_a_teacher_that_does_not_exist_is_refused_without_a_run(
    made: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(runs())
    assert main([*ARGV, "--chain", "nonsense,student"]) == 1
    assert "kdflow assistant: chain: expected auto, a network's name" in capsys.readouterr().err
    assert len(runs()) == before
