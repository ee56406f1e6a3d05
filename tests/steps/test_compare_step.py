"""The comparison of a distillation with its baseline, on the digits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import artifact, logged_table, made_by
from mlflow.entities import Run

from kdflow.artifacts import logits
from kdflow.dataset import Dataset
from kdflow.tracking.find import get_run
from kdflow.tracking.models import class_names_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store", "cache")]

ARGV = ["--dataset", "digits", "--epochs", "1", "--teacher", "pupil", "--student", "pupil"]


def test_compare_trains_pairs_as_children_and_reuses_what_exists(
    first: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--dataset", "digits", "--epochs", "1", "--teacher", "pupil", "--temp", "8"]
    (existing,) = made_by(["distill", *argv, "--seed", "6"])
    capsys.readouterr()
    made = made_by(["compare", *argv, "--seeds", "3", "--seed", "5"])
    parent, children = made[0], made[1:]
    assert parent.info.run_name == "T=8 alpha=0.9 s5-7 compare student<-p..."
    assert [run.data.tags["kdflow.step"] for run in children] == (
        ["baseline", "distill", "baseline", "baseline", "distill"]
    )
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert "kdflow.asked_by" not in run.data.tags
    assert [run.data.params["seed"] for run in children] == ["5", "5", "6", "7", "7"]
    shown = capsys.readouterr().out
    assert f"  found   {existing.info.run_name}, run {existing.info.run_id}\n" in shown

    alone = [run.data.metrics["test_accuracy"] for run in children if "temp" not in run.data.params]
    taught = [children[1], existing, children[4]]
    gains = [
        run.data.metrics["test_accuracy"] - accuracy
        for run, accuracy in zip(taught, alone, strict=True)
    ]
    metrics = parent.data.metrics
    assert metrics["difference_mean"] == pytest.approx(np.mean(gains))
    half = 4.302653 * np.std(gains, ddof=1) / np.sqrt(3)
    assert metrics["difference_high"] - metrics["difference_mean"] == pytest.approx(half, rel=1e-5)
    low, high = metrics["difference_low"], metrics["difference_high"]
    expected = "BEATS" if low > 0 else "WORSE" if high < 0 else "INCONCLUSIVE"
    assert parent.data.tags["kdflow.verdict"] == expected
    table = logged_table("comparison.json", parent)
    assert table["distilled_run"].tolist() == [run.info.run_id for run in taught]
    assert artifact(parent, "comparison.png").stat().st_size > 0


def test_a_training_with_other_names_of_the_classes_is_not_found(
    tiny: Dataset, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", "--dataset", str(tiny_npz), "--epochs", "1", "--seeds", "2"]
    argv += ["--teacher", "pupil", "--student", "pupil", "--allow_weak_teacher", "true"]
    made_by(argv)
    arrays = {name: getattr(tiny, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tiny_npz, **arrays, class_names=["rose", "tulip", "aster"])
    made = made_by(argv)
    assert "expected the class names rose, tulip, aster, got " in capsys.readouterr().out
    students = [run for run in made if run.data.tags["kdflow.step"] in ("baseline", "distill")]
    assert len(students) == 4
    for run in students:
        assert class_names_of(get_run(run.info.run_id)) == ("rose", "tulip", "aster")


@pytest.mark.usefixtures("untrained")
def test_compare_starts_every_student_from_one_hint_run_and_no_baseline(
    first: list[Run], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["compare", *ARGV, "--seeds", "2", "--seed", "20", "--init", "auto"]
    parent, *made = made_by(argv)
    hint = parent.data.tags["kdflow.upstream.init"]
    assert parent.info.run_name == "T=4 alpha=0.9 hint s20-21 compare pup..."
    # whichever step asked for them, all are children of the one comparison
    assert {run.data.tags["mlflow.parentRunId"] for run in made} == {parent.info.run_id}
    assert [run.info.run_id for run in made if run.data.tags["kdflow.step"] == "hint"] == [hint]
    inits = [
        run.data.tags.get("kdflow.upstream.init")
        for run in made
        if run.data.tags["kdflow.step"] in ("baseline", "distill")
    ]
    assert inits == [None, hint, None, hint]
    assert "(only the distilled students had the 10 epochs of hints)" in capsys.readouterr().out
    again = made_by(argv)
    assert len(again) == 1  # its pairs are found, hint run and all


@pytest.mark.usefixtures("untrained")
def test_what_a_comparison_needs_is_its_child_whoever_asked(quick_pupil: None, store: Path) -> None:
    parent, *made = made_by(["compare", *ARGV, "--seeds", "2"])
    assert [run.data.tags["kdflow.step"] for run in made] == (
        ["export_logits", "teacher", "baseline", "distill", "baseline", "distill"]
    )
    assert {run.data.tags["mlflow.parentRunId"] for run in made} == {parent.info.run_id}
    assert not any("kdflow.asked_by" in run.data.tags for run in made)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("init", ["none", "auto"])
def test_a_comparison_reads_its_teacher_and_its_hint_run_once(
    init: str, first: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # to read them for each seed takes long, and could give one seed another teacher
    argv = ["compare", *ARGV, "--seeds", "3", "--seed", "40", "--init", init]
    made_by(argv)  # whatever it needs exists from now on
    read, load = [], mlflow.keras.load_model

    def counting(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            read.append(name)
            return function(*args, **options)

        return counted

    monkeypatch.setattr(logits, "read", counting(logits.read, "logits"))
    monkeypatch.setattr(mlflow.keras, "load_model", counting(load, "model"))
    made_by([*argv, "--reuse", "never"])
    # `auto` verifies the hint run, and the teacher whose hints those are
    assert read.count("logits") == 1
    assert read.count("model") == (0 if init == "none" else 2)


def test_without_the_test_set_it_compares_the_epochs_that_were_kept_fresh_or_found(
    first: list[Run],
) -> None:
    argv = ["compare", *ARGV, "--epochs", "4", "--seeds", "2", "--seed", "60"]
    argv += ["--keep", "best_accuracy", "--evaluate_test", "false"]
    fresh, *children = made_by(argv)
    (found,) = made_by(argv)
    client = mlflow.MlflowClient()
    best = [
        max(m.value for m in client.get_metric_history(run.info.run_id, "val_accuracy"))
        for run in children
    ]
    assert [run.data.metrics["kept_val_accuracy"] for run in children] == best
    baselines = [v for v, run in zip(best, children, strict=True) if "temp" not in run.data.params]
    assert fresh.data.metrics["baseline_mean"] == pytest.approx(np.mean(baselines))
    for name in ("baseline_mean", "distilled_mean", "difference_mean"):
        assert found.data.metrics[name] == fresh.data.metrics[name]
