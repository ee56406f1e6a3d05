"""A step is planned, the plan is printed, and it is carried out unless `plan_only`."""

import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest
from helpers import needs_deploy, parameters, runs

from kdflow.__main__ import main
from kdflow.needs import Step
from kdflow.reuse import Resolver
from kdflow.steps import STEPS
from kdflow.steps import run as running
from kdflow.steps.baseline import BaselineConfig
from kdflow.steps.main import MainConfig
from kdflow.steps.run import load, run_step

ARGV = {
    "teacher": "--arch pupil",
    "export_logits": "--model pupil",
    "baseline": "--student pupil",
    "hint": "--student pupil --teacher pupil",
    "distill": "--student pupil --teacher pupil --init auto",
    "compare": "--student pupil --teacher pupil --seeds 2",
    "assistant": "--chain pupil,student,pupil",
    "main": "--student pupil --teacher pupil",
    "deploy": "--model pupil --teacher none",
}
TEACHER = ("train   s0 teacher pupil, under a minute", "export  views=1 export_logits pupil")
OBJECTIVE = "T=4 alpha=0.9"
PLANS = {
    "teacher": TEACHER[:1],
    "export_logits": TEACHER,
    "baseline": ("train   s0 baseline pupil, under a minute",),
    "hint": (TEACHER[0], "train   s0 hint pupil, under a minute"),
    "distill": (
        *TEACHER,
        "train   s0 hint pupil, under a minute",
        f"train   {OBJECTIVE} hint s0 distill pupil<-..., under a minute",
    ),
    "compare": (
        *TEACHER,
        "train   s0 baseline pupil, under a minute",
        f"train   {OBJECTIVE} s0 distill pupil<-pupil, under a minute",
        "train   s1 baseline pupil, under a minute",
        f"train   {OBJECTIVE} s1 distill pupil<-pupil, under a minute",
        f"run     {OBJECTIVE} s0-1 compare pupil<-pupil",
    ),
    "assistant": (
        *TEACHER,
        f"train   {OBJECTIVE} s0 distill student<-pupil, under a minute",
        "export  the logits of that run",
        f"train   {OBJECTIVE} s0 distill pupil, from these logits, under a minute",
        "train   s0 baseline pupil, under a minute",
        f"train   {OBJECTIVE} s0 distill pupil<-pupil, under a minute",
        f"run     {OBJECTIVE} s0 assistant pupil,stud...",
    ),
}


@pytest.mark.usefixtures("store")
def test_of_main_the_student_that_started_from_hints_is_deployed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = mlflow.MlflowClient()
    tags = {"kdflow.step": "main", "kdflow.upstream.hint_kd": "h" * 32, "kdflow.upstream.kd": "k"}
    ledger = client.create_run("0", tags=tags).info.run_id
    client.set_terminated(ledger)
    resolver = Resolver(running.ALL_STEPS, load("digits", 0.2))
    planned: list[tuple[str, Any]] = []
    monkeypatch.setattr(resolver, "plan_step", lambda name, config: planned.append((name, config)))
    monkeypatch.setattr(resolver, "make", lambda plan: None)
    running._deploy(ledger, parameters(MainConfig, dataset="digits", holdout=0.2), resolver)
    ((name, config),) = planned
    assert (name, config.model, config.holdout) == ("deploy", "h" * 32, 0.2)
    assert resolver.parent == ledger


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[needs_deploy] * (name == "deploy")) for name in STEPS]
)
def test_plan_only_prints_the_plan_opens_no_run_and_makes_nothing(
    name: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_in(store)
    argv = [name, "--dataset", "digits", *ARGV.get(name, "").split()]
    assert main([*argv, "--plan_only", "true"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == "plan:"
    assert all(line.startswith("  ") for line in lines)
    planned = [line.strip() for line in lines]
    if name in PLANS:
        assert planned == list(PLANS[name])
    assert name in planned[-1].split()
    assert runs() == []
    assert files_in(store) == before


@pytest.mark.slow
@pytest.mark.usefixtures("untrained", "quick_pupil")
def test_the_plan_is_what_is_then_done(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["main", "--dataset", "digits", "--student", "pupil", "--teacher", "pupil"]
    assert main([*argv, "--plan_only", "true"]) == 0
    planned = [line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    # before any run is opened
    assert shown.index("plan:\n") < shown.index("T=4 alpha=0.9 s0 main pupil: run ")
    titles = [line.split(",")[0] for line in planned]
    made = {str(run.info.run_name): run for run in runs()}
    # an export that is named by its model's run has no name before that run exists
    ids = {run.info.run_id[:8] for run in runs()}
    later = [name for name in made if ids & set(name.split())]
    assert [name.split()[1] for name in later] == ["export_logits"]
    titles[titles.index("the logits of that run")] = later[0]
    assert sorted(titles) == sorted(str(run.info.run_name) for run in runs())


@pytest.mark.usefixtures("untrained")
def test_a_step_runs_in_a_thread_as_in_a_notebook(store: Path) -> None:
    # signals can be handled in the main thread alone; the store was blamed for it
    outcome: list[str | BaseException | None] = []

    def work() -> None:
        config = parameters(BaselineConfig, dataset="digits", student="pupil", epochs=1)
        try:
            outcome.append(run_step("baseline", config))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (run,) = runs()
    assert outcome == [run.info.run_id]
    assert run.info.status == "FINISHED"


def test_the_bundled_import_is_no_entry_point() -> None:
    assert set(running.ALL_STEPS) - set(STEPS) == {"bundled"}
    assert all(isinstance(step, Step) and step.name == name for name, step in STEPS.items())


def test_a_plan_labels_the_run_that_mlflow_run_has_opened(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = mlflow.MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    argv = ["baseline", "--dataset", "digits", "--student", "pupil", "--plan_only", "true"]
    assert main(argv) == 0
    (run,) = runs()
    assert run.info.run_name == "plan of s0 baseline pupil"
    assert run.data.tags["kdflow.plan_only"] == "true"
    assert (run.data.params, run.data.metrics) == ({}, {})
