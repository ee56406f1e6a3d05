"""The whole story in one command, on the digits."""

from pathlib import Path

import pytest
from helpers import logged_table, runs

from kdflow.__main__ import main

pytestmark = pytest.mark.usefixtures("untrained")  # what the figures are does not matter here


@pytest.mark.slow
def test_one_parent_holds_every_step_and_one_table(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["main", "--dataset", "digits", "--teacher", "student", "--temp", "8", "--epochs", "2"]
    assert main(argv) == 0
    parent, *others = made = runs()
    assert parent.info.run_name == "T=8 alpha=0.9 s0 main student"
    assert {run.info.status for run in made} == {"FINISHED"}
    # under it, whichever step asked for them, without another parent between
    assert {run.data.tags["mlflow.parentRunId"] for run in others} == {parent.info.run_id}
    assert not any("kdflow.asked_by" in run.data.tags for run in made)
    assert [run.data.tags["kdflow.step"] for run in others] == [
        *("export_logits", "teacher", "baseline", "hint", "distill", "distill"),
        *("distill", "export_logits", "baseline", "distill"),
    ]
    _, _, alone, hint, kd, hint_kd, pupil, export, pupil_alone, pupil_straight = others
    assert hint_kd.data.tags["kdflow.upstream.init"] == hint.info.run_id
    assert "kdflow.upstream.init" not in kd.data.tags
    # the student that was taught without hints is the assistant
    assert export.data.tags["kdflow.upstream.model"] == kd.info.run_id
    assert pupil.data.tags["kdflow.upstream.teacher"] == export.info.run_id

    table = logged_table("ledger.json", parent)
    in_order = [alone, kd, hint_kd, pupil, pupil_alone, pupil_straight]
    assert table["run"].tolist()[1:] == [run.info.run_id for run in in_order]
    accuracies = [run.data.metrics["test_accuracy"] for run in in_order]
    assert table["test_accuracy"].tolist()[1:] == pytest.approx(accuracies)
    assert table["how"].tolist()[:4] == ["teacher", "labels alone", "KD", "hint + KD"]
    (picture,) = Path(parent.info.artifact_uri).glob("ledger.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    capsys.readouterr()
    assert main(argv) == 0
    assert len(runs()) == len(made) + 1  # all else is found again
    assert "hint + KD" in capsys.readouterr().out
