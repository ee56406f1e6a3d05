"""Which code shapes a training, as a digest: trainings are compared only if the same code made
them."""

import ast
import hashlib
import inspect
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from kdflow.catalogue.losses import LOSSES
from kdflow.catalogue.networks import NETWORKS
from kdflow.config.base import Config

PACKAGE = Path(__file__).parent

# Relative to the package. What only finds, records or shows results is not among them.
SHAPING = (
    "dataset.py",
    "losses.py",
    "network.py",
    "views.py",
    "catalogue/networks/initial.py",
    "catalogue/networks/layers.py",
    "evaluate/metrics.py",
    "steps/training.py",
    "training/*.py",
)


def code_of(config: Config) -> str:
    """The digest of the code that shapes what `config` asks for: what every training runs through,
    its own network and loss, and the versions of Keras and its backend."""
    used = config.used()
    network = used.get("arch") or used.get("student")
    return code_sha256(network if network in NETWORKS else None, used.get("loss"))


@cache
def code_sha256(network: str | None, loss: str | None) -> str:
    """The SHA-256 behind `code_of`. Comments, docstrings and formatting do not count, nor does any
    other network or loss."""
    files = [path for pattern in SHAPING for path in sorted(PACKAGE.glob(pattern))]
    if network:
        files.append(_file_of(NETWORKS[network].build))
    if loss:
        files.append(_file_of(LOSSES[loss].term))
    backend = keras.backend.backend()
    described = [f"{package} {version(package)}" for package in ("keras", backend, "numpy")]
    described += [_meaning(path.read_text(encoding="utf-8")) for path in files]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _file_of(function: Callable[..., Any]) -> Path:
    return Path(str(inspect.getsourcefile(function)))


def _meaning(source: str) -> str:
    """The source as a syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _is_text(statement)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
