"""MLproject, conda.yaml, pyproject.toml, README and CI repeat what stands elsewhere; here they are
held to it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdflow.config import STEPS, canonical

ROOT = Path(__file__).parent.parent
MLPROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())
CONDA: dict[str, Any] = yaml.safe_load((ROOT / "conda.yaml").read_text())
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
MLFLOW_TYPES = {float: "float", int: "float", bool: "string", str: "string"}


def declared(step: str) -> dict[str, dict[str, Any]]:
    parameters: dict[str, dict[str, Any]] = MLPROJECT["entry_points"][step]["parameters"]
    return parameters


def test_there_is_an_entry_point_for_every_step() -> None:
    assert list(MLPROJECT["entry_points"]) == list(STEPS)
    assert MLPROJECT["name"] == "kdflow"
    assert MLPROJECT["conda_env"] == "conda.yaml"


@pytest.mark.parametrize("step", STEPS)
def test_each_parameter_with_one_default_is_declared_with_its_name_type_and_default(
    step: str,
) -> None:
    fields = {n: f for n, f in STEPS[step].model_fields.items() if not f.is_required()}
    assert set(declared(step)) == set(fields)
    for name, parameter in declared(step).items():
        expected = fields[name]
        assert canonical(parameter["default"]) == canonical(expected.default), name
        kind = MLFLOW_TYPES.get(expected.annotation, "string")  # type: ignore[arg-type]
        assert parameter["type"] == kind, name
        if kind == "string":  # unquoted, YAML would make True of true
            assert isinstance(parameter["default"], str), name


@pytest.mark.parametrize("step", STEPS)
def test_each_declared_parameter_is_forwarded_once_and_nothing_else_is(step: str) -> None:
    command = MLPROJECT["entry_points"][step]["command"]
    flags = re.findall(r"--(\w+) \{(\w+)\}", command)
    assert [flag for flag, _ in flags] == [name for _, name in flags] == list(declared(step))
    rebuilt = " ".join(f"--{name} {{{name}}}" for name in declared(step))
    assert command == f"python -m kdflow {step} {rebuilt}"


def test_condas_pins_are_pyprojects() -> None:
    pip = CONDA["dependencies"][-1]["pip"]
    assert pip[0] == "-c constraints.txt"
    assert pip[1:] == PYPROJECT["project"]["dependencies"]
    assert CONDA["dependencies"][:2] == ["python=3.11", "pip"]
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.12"


def test_every_direct_dependency_is_pinned_as_in_the_constraints() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    direct = [*PYPROJECT["project"]["dependencies"], *extras["dev"], *extras["gpu"]]
    constraints = dict(
        re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    for requirement in direct:
        pinned = re.fullmatch(r"([\w.-]+)(?:\[[\w-]+\])?==([\w.]+)", requirement)
        assert pinned, f"{requirement} is not pinned"
        assert constraints[pinned[1]] == pinned[2], requirement


def test_constraints_hold_versions_and_no_addresses() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.match(r"^[\w.-]+==[\w.]+( ; .+)?$", line), line


def test_ci_runs_the_readmes_test_command() -> None:
    commands = re.findall(r"^pip install .*pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_readmes_tree_names_every_file_of_the_package() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1]
    for folder in ("kdflow", "benchmarks", "tools"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "__init__.py":
                assert file.name in tree, file
