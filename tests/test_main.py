"""The command line, and the rules about who imports what."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import parameters

from kdflow.__main__ import main, parse
from kdflow.commands import COMMANDS
from kdflow.config.base import canonical
from kdflow.steps import STEPS
from kdflow.steps.distill import DistillCommand
from kdflow.steps.teacher import TeacherConfig


def test_flags_become_the_steps_config() -> None:
    given = "--dataset digits --temp 8 --alpha=0.5 --t_squared False --epochs 3"
    step, config = parse(["distill", *given.split()])
    assert step == "distill"
    assert config == parameters(
        DistillCommand, dataset="digits", temp=8, alpha=0.5, t_squared=False, epochs=3
    )
    assert parse(["teacher"]) == ("teacher", parameters(TeacherConfig))


def test_the_environment_sets_no_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMP", "temp", "KDFLOW_TEMP"):
        monkeypatch.setenv(name, "99")
    assert parse(["distill"]) == ("distill", parameters(DistillCommand))
    assert parse(["distill"])[1].model_dump()["temp"] == 4


@pytest.mark.parametrize("name", [*STEPS, *COMMANDS])
def test_help_lists_every_parameter_with_its_default(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no default is broken into lines
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    config = STEPS[name].config if name in STEPS else COMMANDS[name].config
    for field, info in config.model_fields.items():
        (line,) = re.findall(rf"^  --{field} \S+\s+(.*)$", shown, re.MULTILINE)
        missing = "(default: depends on" if name in STEPS else "(required)"
        default = missing if info.is_required() else f"(default: {canonical(info.default)})"
        assert default in line, field
    if name == "distill":
        assert "temperature T of the soft targets (default: 4)" in shown


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "distill --temp 0",
            "kdflow distill: temp: expected greater than or equal to 0.01, got '0'",
        ),
        ("distill --temp warm", "kdflow distill: temp: expected a valid number"),
        (
            "distill --alpha 1.5",
            "kdflow distill: alpha: expected less than or equal to 1, got '1.5'",
        ),
        ("distill --alpha -0.5", "kdflow distill: alpha: expected greater than or equal to 0"),
        ("distill --teacher=", "kdflow distill: teacher: expected at least 1 character, got ''"),
        ("export_logits --model=", "kdflow export_logits: model: expected at least 1 character"),
        (
            "distill --tmep 4",
            "kdflow distill: unrecognized arguments: --tmep 4; did you mean --temp? (see python",
        ),
        (
            "distill --image-size=4",
            "unrecognized arguments: --image-size=4; did you mean --image_size?",
        ),
        ("distill --xyz 4", "kdflow distill: unrecognized arguments: --xyz 4 (see python"),
        ("distill --tem 4", "unrecognized arguments: --tem 4"),
        ("distill --temp", "argument --temp: expected one argument"),
        ("distill --student giant", "kdflow distill: student: expected 'vgg', 'fast', 'student'"),
        ("baseline --dataset mnist", "kdflow baseline: dataset: expected cifar10, "),
        ("teacher --arch giant", "kdflow teacher: arch: expected 'vgg'"),
        ("export_logits --views 0", "kdflow export_logits: views: expected greater than or equal"),
        (
            "assistant --chain student",
            "kdflow assistant: chain: expected a teacher and one or more",
        ),
        (
            "assistant --chain ,student",
            "kdflow assistant: chain: expected a teacher and one or more",
        ),
        ("assistant --chain vgg,giant", "kdflow assistant: chain: expected a teacher and"),
        (
            "compare --seed 2147483647 --seeds 2",
            "seeds: expected at most 1 from seed 21",
        ),
        ("main --teacher vgg,fast", "main: teacher: expected a single teacher, got 'vgg,fast'"),
        ("hint --teacher=", "kdflow hint: teacher: expected at least 1 character, got ''"),
        ("destill", "argument step: invalid choice: 'destill'"),
        ("", "the following arguments are required: step"),
    ],
)
def test_what_is_refused_is_refused_in_one_line_with_status_2(
    argv: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv.split())
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("argv", ["distill --help", "distill --temp 0"])
def test_help_and_refusals_load_neither_keras_nor_mlflow_and_make_no_store(
    argv: str, tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom kdflow.__main__ import main\n"
        f"try: main({argv.split()})\nexcept SystemExit: pass\n"
        "heavy = {'keras', 'mlflow', 'numpy', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_imports_keep_to_the_contracts_of_pyproject() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout
