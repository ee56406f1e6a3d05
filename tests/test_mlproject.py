"""MLproject, conda.yaml, pyproject.toml, README and CI repeat what stands elsewhere; here they are
held to it."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from kdflow.config import STEPS, canonical
from sweeps.driver.config import SweepConfig

ROOT = Path(__file__).parent.parent
MLPROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())
CONDA: dict[str, Any] = yaml.safe_load((ROOT / "conda.yaml").read_text())
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONFIGS: dict[str, type[BaseModel]] = {**STEPS, "sweep": SweepConfig}
COMMANDS = {"sweep": "python -m sweeps {study}"}
MLFLOW_TYPES = {float: "float", int: "float", bool: "string", str: "string"}


def declared(step: str) -> dict[str, dict[str, Any]]:
    parameters: dict[str, dict[str, Any]] = MLPROJECT["entry_points"][step]["parameters"]
    return parameters


def test_there_is_an_entry_point_for_every_step() -> None:
    assert list(MLPROJECT["entry_points"]) == list(CONFIGS)
    assert MLPROJECT["name"] == "kdflow"
    assert MLPROJECT["conda_env"] == "conda.yaml"


@pytest.mark.parametrize("step", CONFIGS)
def test_each_parameter_with_one_default_is_declared_with_its_name_type_and_default(
    step: str,
) -> None:
    fields = {n: f for n, f in CONFIGS[step].model_fields.items() if not f.is_required()}
    defaulted = {name: each for name, each in declared(step).items() if "default" in each}
    assert set(defaulted) == set(fields)
    assert set(declared(step)) - set(fields) == ({"study"} if step == "sweep" else set())
    for name, parameter in defaulted.items():
        expected = fields[name]
        assert canonical(parameter["default"]) == canonical(expected.default), name
        kind = MLFLOW_TYPES.get(expected.annotation, "string")  # type: ignore[arg-type]
        assert parameter["type"] == kind, name
        if kind == "string":  # unquoted, YAML would make True of true
            assert isinstance(parameter["default"], str), name


@pytest.mark.parametrize("step", CONFIGS)
def test_each_declared_parameter_is_forwarded_once_and_nothing_else_is(step: str) -> None:
    command = MLPROJECT["entry_points"][step]["command"]
    flags = re.findall(r"--(\w+) \{(\w+)\}", command)
    names = [name for name, parameter in declared(step).items() if "default" in parameter]
    assert [flag for flag, _ in flags] == [name for _, name in flags] == names
    rebuilt = " ".join(f"--{name} {{{name}}}" for name in names)
    assert command == f"{COMMANDS.get(step, f'python -m kdflow {step}')} {rebuilt}"


def test_condas_pins_are_pyprojects() -> None:
    pip = CONDA["dependencies"][-1]["pip"]
    assert pip[0] == "-c constraints.txt"
    assert pip[1:] == PYPROJECT["project"]["dependencies"]
    assert CONDA["dependencies"][:2] == ["python=3.11", "pip"]
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.12"


def test_every_direct_dependency_is_pinned_as_in_the_constraints() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    direct = [*PYPROJECT["project"]["dependencies"], *itertools.chain(*extras.values())]
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


def test_the_readmes_tree_names_exactly_the_files_of_the_package() -> None:
    tree = (ROOT / "README.md").read_text().split("## The tree")[1].split("```")[1]
    named, folders = set(), [""]
    for line in tree.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.findall(r"(?:^|  )\s*([\w.]+\.py|\w+/)(?=  |$)", line)
        if names and names[0].endswith("/"):
            folders = [*folders[: depth + 1], folders[depth] + names[0]]
        elif depth < 8:  # else it goes on with the line above
            named |= {folders[depth] + name for name in names}
    parts = ("kdflow", "sweeps", "benchmarks", "tools")
    there = {
        str(file.relative_to(ROOT))
        for part in parts
        for file in (ROOT / part).rglob("*.py")
        if file.name != "__init__.py"
    }
    assert named == there
