"""The whole story in one command, on the digits."""

from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run

from kdflow.__main__ import main

pytestmark = pytest.mark.slow


def runs() -> list[Run]:
    return list(mlflow.MlflowClient().search_runs(["0"], order_by=["attributes.start_time ASC"]))


def test_one_parent_holds_every_step_and_one_table(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDFLOW_CACHE", str(store / "cache"))
    argv = ["main", "--dataset", "digits", "--temp", "8", "--epochs", "2"]
    assert main(argv) == 0
    parent, *others = made = runs()
    assert parent.info.run_name == "main student T=8 alpha=0.9 seed=0"
    assert {run.info.status for run in made} == {"FINISHED"}
    by_id = {run.info.run_id: run for run in made}

    def ancestors(run: Run) -> list[str]:
        above = run.data.tags.get("mlflow.parentRunId")
        return [above, *ancestors(by_id[above])] if above else []

    under_it = [run for run in others if parent.info.run_id in ancestors(run)]
    steps = [run.data.tags["kdflow.step"] for run in under_it]
    assert steps == [
        *("export_logits", "teacher", "baseline", "hint", "distill", "distill", "assistant"),
        *("export_logits", "distill", "baseline", "distill"),
    ]
    assert under_it == others
    _, _, alone, hint, kd, hint_kd, chain, _, pupil, pupil_alone, pupil_straight = under_it
    assert hint_kd.data.tags["kdflow.upstream.init"] == hint.info.run_id
    assert "kdflow.upstream.init" not in kd.data.tags
    assert mlflow.load_table("ledger.json", run_ids=[chain.info.run_id])["run"][1] == kd.info.run_id

    table = mlflow.load_table("ledger.json", run_ids=[parent.info.run_id])
    in_order = [alone, kd, hint_kd, pupil, pupil_alone, pupil_straight]
    assert table["run"].tolist()[1:] == [run.info.run_id for run in in_order]
    accuracies = [run.data.metrics["test_accuracy"] for run in in_order]
    assert table["test_accuracy"].tolist()[1:] == pytest.approx(accuracies)
    assert table["how"].tolist()[:4] == ["teacher", "labels alone", "KD", "hint + KD"]
    (picture,) = Path(parent.info.artifact_uri).glob("ledger.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    capsys.readouterr()
    assert main(argv) == 0
    *_, again, chain_again = runs()
    assert len(runs()) == len(made) + 2  # all else is found again
    assert chain_again.data.tags["mlflow.parentRunId"] == again.info.run_id
    assert "hint + KD" in capsys.readouterr().out
