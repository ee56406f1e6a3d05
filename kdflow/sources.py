"""Which code shapes a training, as a digest: trainings are compared only if the same code made
them."""

import ast
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras

from kdflow import network
from kdflow.catalogue.losses import LOSSES
from kdflow.catalogue.networks import NETWORKS
from kdflow.catalogue.networks.own import own_network
from kdflow.config.base import Config
from kdflow.dataset import Dataset

PACKAGE = Path(__file__).parent

# Relative to the package. What only finds, records or shows results is not among them.
SHAPING = (
    "__init__.py",
    "dataset.py",
    "adapt.py",
    "features.py",
    "image_file.py",
    "kernels/*.py",
    "losses.py",
    "network.py",
    "pipeline.py",
    "precision.py",
    "size.py",
    "views.py",
    "catalogue/networks/initial.py",
    "catalogue/networks/layers.py",
    "config/fitting.py",
    "config/training.py",
    "evaluate/metrics.py",
    "steps/training.py",
    "training/*.py",
)
WRITTEN_BY = {"hint": ("artifacts/hints.py",), "export_logits": ("artifacts/logits.py",)}
NOT_SHAPING = ("training/progress.py", "training/speed.py")  # no weight depends on these


def code_of(step: str, used: Mapping[str, Any]) -> str:
    """The digest of the code that shapes what a step makes: the step itself, what every training
    runs through, what builds its network, its loss, and the versions of Keras, its backend and
    NumPy. What a user's own network computes is in the key (`own_networks`).

    Args:
        used: the parameters that the step uses, by name.
    """
    trained = used.get("arch") or used.get("student")
    return code_sha256(step, trained, used.get("loss"))


def own_networks(config: Config, dataset: Dataset) -> dict[str, str]:
    """By parameter, the identifiers in keys of the user's own networks that a step trains."""
    named = {name: getattr(config, name, "") for name in ("arch", "student")}
    kept = getattr(config, "keeps_weights", False)
    images = dataset.image_shape, dataset.classes
    return {
        name: network.identity(typed, *images, keeps_weights=kept)
        for name, typed in named.items()
        if typed and network.record_of(typed).is_own
    }


@cache
def code_sha256(step: str, trained: str | None, loss: str | None) -> str:
    """The SHA-256 behind `code_of`. Comments, docstrings, help and formatting do not count, nor do
    other networks, losses and steps."""
    patterns = (*SHAPING, f"steps/{step}.py", *WRITTEN_BY.get(step, ()))
    left_out = [PACKAGE / name for name in NOT_SHAPING]
    matching = [path for pattern in patterns for path in sorted(PACKAGE.glob(pattern))]
    files = [path for path in matching if path not in left_out]
    if trained:
        files.append(_file_of(NETWORKS[trained].build if trained in NETWORKS else own_network))
    if loss in LOSSES:
        files.append(_file_of(LOSSES[loss].term))
    backend = keras.backend.backend()
    described = [f"{package} {version(package)}" for package in ("keras", backend, "numpy")]
    described += [_meaning(path.read_text(encoding="utf-8")) for path in files]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _file_of(function: Callable[..., Any]) -> Path:
    return Path(str(inspect.getsourcefile(function)))


def _meaning(source: str) -> str:
    """The source as a syntax tree without docstrings and the help of parameters."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [word for word in node.keywords if word.arg != "description"]
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
