"""When a run is reused, on the digits. What its figures are does not matter here, so that nothing
is learned."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from helpers import DISTILL, artifact, made_by, resolver, runs
from mlflow.entities import Run

from kdflow import sources
from kdflow.__main__ import main
from kdflow.catalogue.networks import NETWORKS
from kdflow.catalogue.networks.record import Spec
from kdflow.needs import Found, LogitsOf, Planned, training
from kdflow.tracking import find

pytestmark = pytest.mark.usefixtures("all_untrained", "shared_store", "cache")

SMALL = ["--dataset", "digits", "--teacher", "pupil", "--student", "pupil", "--epochs", "1"]
COMPARE = ["compare", *SMALL, "--seeds", "2", "--init", "auto"]


def steps_of(made: list[Run]) -> list[str]:
    return [run.data.tags["kdflow.step"] for run in made]


def edit_the_code(monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    monkeypatch.setattr(sources, "code_sha256", lambda step, network, loss: digest)


# --- teachers, logits and hints: verified by content ---------------------------------------------


def test_another_temperature_reuses_the_logits_and_says_so(
    exported: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = made_by([*DISTILL, "--temp", "4"])
    assert run.data.tags["kdflow.upstream.teacher"] == exported.info.run_id
    shown = capsys.readouterr().out
    assert f"plan:\n  found   logits of pupil, {exported.info.run_id}, train" in shown
    accuracy = run.data.metrics["test_accuracy"]
    assert f"T=4 alpha=0.9 s0 distill student<-pupil: test accuracy {accuracy:.4f}" in shown
    assert "its teacher, pupil: test accuracy" in shown
    assert "mlflow ui --backend-store-uri sqlite:///" in shown


def test_logits_that_another_commit_made_are_reused_with_a_remark(
    exported: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolved(tags: dict[str, str] | None = None) -> dict[str, str]:
        return (tags or {}) | {"mlflow.source.git.commit": "b" * 40}

    mlflow.MlflowClient().set_tag(exported.info.run_id, "mlflow.source.git.commit", "a" * 40)
    monkeypatch.setattr(find, "resolve_tags", resolved)
    made_by([*DISTILL, "--temp", "6"])
    train, test = (exported.data.metrics[f"{split}_accuracy"] for split in ("train", "test"))
    assert (
        f"  found   logits of pupil, {exported.info.run_id}, train accuracy {train:.4f}, test"
        f" accuracy {test:.4f} (made by commit aaaaaaaa; this is bbbbbbbb)\n"
    ) in capsys.readouterr().out


def test_a_trial_teacher_is_never_picked_up_by_accident(quick_pupil: None, store: Path) -> None:
    trial, export = ["teacher", "--arch", "pupil", "--epochs", "1"], ["export_logits", "--model"]
    (weak,) = made_by([*trial, "--dataset", "digits"])
    made_by([*export, weak.info.run_id, "--dataset", "digits", "--allow_weak_teacher", "true"])
    _, exported, teacher = made_by([*DISTILL, "--temp", "2"])
    assert exported.data.tags["kdflow.upstream.model"] == teacher.info.run_id != weak.info.run_id


def test_any_model_of_this_project_can_teach(distilled: Run) -> None:
    student_id = distilled.info.run_id
    run, export = made_by([*DISTILL, "--teacher", student_id, "--student", "pupil"])
    assert export.data.tags["kdflow.upstream.model"] == student_id
    found = np.load(artifact(export, "logits") / "test_logits.npy")[0]
    expected = np.load(artifact(distilled, "test_logits.npy"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert run.data.tags["kdflow.upstream.teacher"] == export.info.run_id


@pytest.mark.slow
def test_an_export_of_more_views_serves_and_the_students_key_is_of_its_views_alone(
    store: Path, quick_pupil: None
) -> None:
    export, teacher = made_by(
        ["export_logits", "--dataset", "digits", "--model", "pupil", "--views", "3"]
    )
    (from_three,) = made_by(DISTILL)
    assert from_three.data.tags["kdflow.upstream.teacher"] == export.info.run_id
    model = teacher.info.run_id
    (single,) = made_by(["export_logits", "--dataset", "digits", "--model", model])
    (from_one,) = made_by([*DISTILL, "--teacher", single.info.run_id])
    assert from_one.data.tags["kdflow.upstream.teacher"] == single.info.run_id
    assert from_one.data.tags["kdflow.key"] == from_three.data.tags["kdflow.key"]
    (two_views,) = made_by([*DISTILL, "--views", "2"])
    assert two_views.data.tags["kdflow.upstream.teacher"] == export.info.run_id
    assert two_views.data.tags["kdflow.key"] != from_one.data.tags["kdflow.key"]


# --- what is proven to be missing or damaged is made again ----------------------------------------


def flip_a_byte(logits: Path) -> None:
    content = bytearray((logits / "train_logits.npy").read_bytes())
    content[-1] ^= 1
    (logits / "train_logits.npy").write_bytes(content)


def truncate(logits: Path) -> None:
    whole = (logits / "train_logits.npy").read_bytes()
    (logits / "train_logits.npy").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "SHA-256 of train_logits.npy"),
        (truncate, "expected an array in train_logits.npy"),
        (lambda logits: (logits / "test_logits.npy").unlink(), "an array in test_logits.npy"),
        (lambda logits: (logits / "manifest.json").unlink(), "expected a manifest.json, got none"),
        (shutil.rmtree, "(export_logits) has no logits"),
    ],
    ids=["a byte", "truncated", "a file", "the manifest", "the folder"],
)
def test_unfit_logits_are_not_used(
    damage: Callable[[Path], object],
    message: str,
    exported: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logits = Path(exported.info.artifact_uri) / "logits"
    need = LogitsOf("pupil", 0.1)
    shutil.copytree(logits, tmp_path / "sound")
    damage(logits)
    try:
        plan = resolver().plan(need)
    finally:
        shutil.copytree(tmp_path / "sound", logits, dirs_exist_ok=True)
    assert isinstance(plan, Planned)
    assert plan.step.name == "export_logits"
    assert [type(resolver().plan(each)) for each in plan.inputs.values()] == [Found]  # its teacher
    shown = capsys.readouterr().out
    assert message in shown
    assert shown.endswith("; it is not used\n")
    assert resolver().plan(need).result.source == exported.info.run_id


@pytest.mark.slow
def test_damaged_logits_are_exported_again_and_the_sound_ones_found_next_time(
    quick_pupil: None, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, export, _ = made_by(DISTILL)
    flip_a_byte(Path(export.info.artifact_uri) / "logits")
    run, again = made_by(DISTILL)
    assert "SHA-256 of train_logits.npy" in capsys.readouterr().out
    assert run.data.tags["kdflow.upstream.teacher"] == again.info.run_id
    (run,) = made_by(DISTILL)
    assert run.data.tags["kdflow.upstream.teacher"] == again.info.run_id


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "removed"])
def test_an_unfit_teacher_is_trained_again(
    damage: str, quick_pupil: None, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (teacher,) = made_by(["teacher", "--dataset", "digits", "--arch", "pupil"])
    (file,) = (store / "mlruns").rglob("*.keras")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        shutil.rmtree(file.parent.parent)
    _, _, again = made_by(DISTILL)
    shown = capsys.readouterr().out
    reason = ": no model can be loaded" if damage == "truncated" else " has no model"
    assert f"teacher: run {teacher.info.run_id} (teacher){reason}" in shown
    assert again.data.tags["kdflow.step"] == "teacher"


@pytest.mark.slow
def test_deleted_runs_do_not_teach(
    quick_pupil: None, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, export, teacher = made_by(DISTILL)
    client = mlflow.MlflowClient()
    client.delete_run(export.info.run_id)
    run, again = made_by(DISTILL)  # only the export is made again
    assert run.data.tags["kdflow.upstream.teacher"] == again.info.run_id
    client.delete_run(teacher.info.run_id)
    _, _, another = made_by(DISTILL)  # the second export is of a deleted teacher
    assert another.data.tags["kdflow.step"] == "teacher"
    before = len(runs())
    for deleted in (export, teacher):
        assert main([*DISTILL, "--teacher", deleted.info.run_id]) == 1
        expected = "distill: teacher: expected a run that is not deleted, got"
        assert f"{expected} {deleted.info.run_id}" in capsys.readouterr().err
    assert len(runs()) == before


# --- trainings that are compared: made by the same code -------------------------------------------


@pytest.fixture(scope="module")
def compared(first: list[Run]) -> list[Run]:
    """The runs of a first comparison: itself, a hint run, and a baseline and a distillation of two
    seeds."""
    made = made_by(COMPARE)
    assert steps_of(made) == ["compare", "hint", "baseline", "distill", "baseline", "distill"]
    return made


def test_unchanged_code_is_not_run_again(compared: list[Run]) -> None:
    assert steps_of(made_by(COMPARE)) == ["compare"]


@pytest.mark.slow
def test_edited_code_is_run_again_with_the_same_logits_and_hints(
    compared: list[Run],
    exported: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit_the_code(monkeypatch, "edited")
    assert steps_of(made_by(COMPARE)) == ["compare", "baseline", "distill", "baseline", "distill"]
    shown = capsys.readouterr().out
    for run in (exported, compared[1]):
        (line,) = (
            each
            for each in shown.splitlines()
            if run.info.run_id in each and each.startswith("  found   ")
        )
        assert line.endswith(" (made by kdflow before it was edited)")
    assert shown.count("earlier run(s) made by other code or on other hardware than cpu") == 4
    assert steps_of(made_by(COMPARE)) == ["compare"]  # the runs of the edited code are reused


@pytest.mark.slow
def test_what_was_trained_with_other_threads_is_not_compared(
    compared: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # sums taken in another order give other last bits
    assert {run.data.tags["kdflow.hardware"] for run in compared} == {"cpu, 1 threads"}
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    made = made_by(COMPARE)
    assert steps_of(made) == ["compare", "baseline", "distill", "baseline", "distill"]
    assert {run.data.tags["kdflow.hardware"] for run in made} == {"cpu, 7 threads"}


@pytest.mark.slow
def test_reuse_any_compares_what_other_code_made(
    compared: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_the_code(monkeypatch, "edited again")
    assert steps_of(made_by([*COMPARE, "--reuse", "any"])) == ["compare"]


@pytest.mark.slow
def test_reuse_never_trains_again_what_is_compared_and_nothing_else(compared: list[Run]) -> None:
    again = made_by([*COMPARE, "--reuse", "never"])
    assert steps_of(again) == ["compare", "baseline", "distill", "baseline", "distill"]


def tanh(spec: Spec) -> keras.Model:
    """`pupil` with another activation: its weights have the same shapes."""
    network = NETWORKS["pupil"].build(spec)
    network.get_layer("dense32").activation = keras.activations.tanh
    return network


def average(spec: Spec) -> keras.Model:
    """`pupil` with another pooling: its weights have the same shapes."""
    network = NETWORKS["pupil"].build(spec)
    pooled = keras.layers.AveragePooling2D(2, name="pool1")(network.get_layer("conv1").output)
    for layer in network.layers[network.layers.index(network.get_layer("pool1")) + 1 :]:
        pooled = layer(pooled)
    return keras.Model(network.input, pooled, name="pupil")


@pytest.mark.slow
@pytest.mark.parametrize("changed", [tanh, average, NETWORKS["student"].build])
def test_a_run_of_a_network_that_has_changed_since_is_not_compared(
    changed: Callable[[Spec], keras.Model],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = made_by(["baseline", "--dataset", "digits", "--student", "pupil", "--epochs", "1"])[0]
    need = training("baseline", dataset="digits", student="pupil", epochs=1)
    assert isinstance(resolver().plan(need), Found)
    here = changed(Spec((8, 8, 1), 10, 0.2))
    monkeypatch.setitem(NETWORKS, "pupil", replace(NETWORKS["pupil"], build=lambda spec: here))
    assert isinstance(resolver().plan(need), Planned)
    assert (
        f"baseline: expected the present architecture of pupil, got run {made.info.run_id}, whose"
        " layers or settings differ"
    ) in capsys.readouterr().out
