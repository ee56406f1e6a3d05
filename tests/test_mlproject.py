"""What is generated from the code, or repeated in several files, is the same everywhere."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import generate
import pytest
import yaml

from kdflow.steps import STEPS
from sweeps.driver.config import SweepConfig

ROOT = Path(__file__).parent.parent
MLPROJECT: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())
CONDA: dict[str, Any] = yaml.safe_load((ROOT / "conda.yaml").read_text())
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = dict(
    re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
)


def test_mlproject_is_what_the_parameters_generate() -> None:
    assert (ROOT / "MLproject").read_text() == generate.mlproject(), "run python tools/generate.py"


@pytest.mark.slow
@pytest.mark.parametrize("page", generate.pages(), ids=lambda page: page.name)
def test_a_pages_tables_are_what_the_catalogue_generates(page: Path) -> None:
    assert page.read_text() == generate.generated(page), "run python tools/generate.py"


def test_there_is_an_entry_point_for_every_step() -> None:
    assert list(MLPROJECT["entry_points"]) == [*STEPS, "sweep"]
    assert MLPROJECT["name"] == "kdflow"
    assert MLPROJECT["conda_env"] == "conda.yaml"


def test_declared_parameters_are_known_to_the_step_and_forwarded_once() -> None:
    for name, entry in MLPROJECT["entry_points"].items():
        config = SweepConfig if name == "sweep" else STEPS[name].config
        flags = re.findall(r"--(\w+) \{(\w+)\}", entry["command"])
        forwarded = [flag for flag, _ in flags]
        assert forwarded == [parameter for _, parameter in flags]
        assert set(entry["parameters"]) - {"study"} == set(forwarded) <= set(config.model_fields)
        assert len(forwarded) == len(set(forwarded))


def test_no_parameter_is_declared_that_a_run_may_not_use() -> None:
    distill = MLPROJECT["entry_points"]["distill"]["parameters"]
    assert distill["temp"] == {"type": "float", "default": 4}
    assert distill["t_squared"] == {"type": "string", "default": "true"}
    # depends on the network; of another loss; not of the result
    assert distill.keys().isdisjoint({"epochs", "dkd_beta", "plan_only"})


def test_condas_pins_are_the_tested_versions() -> None:
    pip = CONDA["dependencies"][-1]["pip"]
    assert pip[0] == "-c constraints.txt"
    names = [re.split(r"[<>=\[]", each)[0] for each in PYPROJECT["project"]["dependencies"]]
    assert pip[1:] == [f"{name}=={CONSTRAINTS[name]}" for name in names]
    assert CONDA["dependencies"][:2] == ["python=3.11", "pip"]
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.12"


def test_every_direct_dependency_has_a_range_that_holds_the_tested_version() -> None:
    from packaging.requirements import Requirement

    extras = PYPROJECT["project"]["optional-dependencies"]
    direct = [*PYPROJECT["project"]["dependencies"], *itertools.chain(*extras.values())]
    for requirement in map(Requirement, direct):
        assert requirement.specifier.contains(CONSTRAINTS[requirement.name]), requirement
        assert "==" not in str(requirement.specifier), requirement


def test_constraints_hold_versions_and_no_addresses() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.match(r"^[\w.-]+==[\w.]+( ; .+)?$", line), line


def test_ci_runs_the_readmes_test_command() -> None:
    commands = re.findall(r"^pip install .*pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()
