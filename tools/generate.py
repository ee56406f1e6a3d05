"""Write what follows from the code: MLproject, and the tables of README.md and docs/.

    python tools/generate.py

A test fails where a file differs from what this would write.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kdflow import network
from kdflow.catalogue.datasets import DATASETS
from kdflow.catalogue.losses import LOSSES
from kdflow.catalogue.networks import NETWORKS
from kdflow.config.base import Config, canonical
from kdflow.config.fitting import FittingConfig
from kdflow.config.precision import PrecisionConfig
from kdflow.config.training import recipe
from kdflow.size import size_of
from kdflow.steps import STEPS
from sweeps.driver.config import SweepConfig

ROOT = Path(__file__).parent.parent
RECIPE = ["optimizer", "learning_rate", "batch_size", "epochs", "schedule", "augment", "dropout"]
HEADER = """\
# Written by `python tools/generate.py` from the parameters that the steps declare.
# Declared here is what every run of a step uses and has one default for. Any other parameter that
# `python -m kdflow <step> --help` (or `python -m sweeps --help`) lists can be given too:
# -P epochs=3 is passed on as --epochs 3.
"""


def mlproject() -> str:
    """The text of MLproject."""
    entries = {
        name: _entry_point(f"python -m kdflow {name}", _always_used(step.config))
        for name, step in STEPS.items()
    }
    fields = {name: info for name, info in SweepConfig.model_fields.items() if name != "study"}
    sweep = _entry_point("python -m sweeps {study}", fields)
    sweep["parameters"] = {"study": {"type": "string"}, **sweep["parameters"]}
    project = {"name": "kdflow", "conda_env": "conda.yaml", "entry_points": entries}
    entries["sweep"] = sweep
    return HEADER + yaml.safe_dump(project, sort_keys=False, default_flow_style=None, width=96)


def _always_used(config: type[Config]) -> dict[str, FieldInfo]:
    used = config.model_validate({}).used()
    return {
        name: info
        for name, info in config.model_fields.items()
        # MLflow would log a default before the run logs what it stands for on this machine
        if used.get(name) == info.default
    }


def _entry_point(command: str, fields: dict[str, FieldInfo]) -> dict[str, Any]:
    defaults = {name: info for name, info in fields.items() if not info.is_required()}
    parameters = {name: _parameter(info) for name, info in defaults.items()}
    words = [command, *(f"--{name} {{{name}}}" for name in parameters)]
    return {"parameters": parameters, "command": " ".join(words)}


def _parameter(info: FieldInfo) -> dict[str, Any]:
    kind = "float" if info.annotation in (int, float) else "string"  # MLflow has no integers
    return {
        "type": kind,
        "default": info.default if kind == "float" else canonical(info.default),
    }


@cache
def tables() -> dict[str, str]:
    """The generated tables by name, in Markdown."""
    return {
        "steps": _table(
            ("entry point", "what it does"),
            [(f"`{name}`", _one_line(step.config)) for name, step in STEPS.items()]
            + [("`sweep`", _one_line(SweepConfig))],
        ),
        "networks": _table(("network", "what it is", "parameters"), list(_networks())),
        "recipes": _table(("network", *RECIPE), list(_recipes())),
        "parameters": _table(
            ("network", "8x8x1", "32x32x3", "64x64x3", "224x224x3", "from 32 to 224 pixels"),
            list(_parameters()),
        ),
        "of_ones_own": _table(
            ("network", "parameters", "million multiply-adds at 32x32", "96x96", "224x224"),
            list(_of_ones_own()),
        ),
        "losses": _table(
            ("loss", "the soft term", "its own weights"),
            [
                (f"`{loss.name}`", loss.summary, ", ".join(f"`{name}`" for name in loss.weights))
                for loss in LOSSES.values()
            ],
        ),
        "fitting": _table(("parameter", "default", "what it does"), list(_defaults(FittingConfig))),
        "precision": _table(
            ("parameter", "default", "what it does"), list(_defaults(PrecisionConfig))
        ),
        "datasets": _table(
            (
                "data set",
                "teacher, where none is named and none comes with kdflow",
                "student",
                "pupil of `main`",
            ),
            [
                (
                    it.name if it.recognises else f"`{it.name}`",
                    *(f"`{network}`" for network in (it.teacher, it.student, it.pupil)),
                )
                for it in DATASETS
            ],
        ),
    }


def _defaults(config: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """The fields that a config declares itself, with their defaults and help."""
    for name in config.__annotations__:
        field = config.model_fields[name]
        yield f"`{name}`", f"`{canonical(field.default)}`", str(field.description)


def _networks() -> Iterator[tuple[str, str, str]]:
    for name, record in NETWORKS.items():
        built = network.untrained(name, (32, 32, 3), 10)
        yield f"`{name}`", record.summary, f"{built.count_params():,}"


def _parameters() -> Iterator[tuple[str, ...]]:
    """A row per network: its parameters on images of several sizes, of 10 classes."""
    shapes = ((8, 8, 1), (32, 32, 3), (64, 64, 3), (224, 224, 3))
    for name in NETWORKS:
        counts = [network.untrained(name, shape, 10).count_params() for shape in shapes]
        growth = counts[-1] / counts[1]
        times = "the same" if growth == 1 else f"{growth:.{1 if growth < 10 else 0}f} times"
        yield f"`{name}`", *map("{:,}".format, counts), times


def _of_ones_own() -> Iterator[tuple[str, ...]]:
    """A row per network that is a default on a user's own images."""
    (folder,) = (record for record in DATASETS if record.options)
    for name in (folder.teacher, folder.student, folder.pupil):
        sizes = [size_of(network.untrained(name, (side, side, 3), 10)) for side in (32, 96, 224)]
        million = [f"{size.multiply_adds / 1e6:.1f}" for size in sizes]
        yield f"`{name}`", f"{sizes[0].parameters:,}", *million


def _recipes() -> Iterator[tuple[str, ...]]:
    """A row per network: its default of each parameter on CIFAR-10, and on the digits if it is
    another one there."""
    for name, record in NETWORKS.items():
        usual, on_digits = (recipe(dataset, name)._asdict() for dataset in ("cifar10", "digits"))
        dropout = {"dropout": "-" if record.dropout is None else record.dropout}
        usual, on_digits = usual | dropout, on_digits | dropout
        cells = (
            f"{usual[each]}"
            + ("" if on_digits[each] == usual[each] else f" (digits: {on_digits[each]})")
            for each in RECIPE
        )
        yield f"`{name}`", *cells


def _one_line(config: type[BaseModel]) -> str:
    return " ".join(str(config.__doc__).split()).rstrip(".")


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def generated(path: Path) -> str:
    """The text of a page with its tables as they have to be."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables().items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
        text = re.sub(pattern, f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
    return text


def pages() -> list[Path]:
    """The pages that may hold generated tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
    """Write all of them."""
    (ROOT / "MLproject").write_text(mlproject(), encoding="utf-8")
    for page in pages():
        page.write_text(generated(page), encoding="utf-8")


if __name__ == "__main__":
    main()
