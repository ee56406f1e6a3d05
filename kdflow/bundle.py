"""The teacher that comes with kdflow, so that a first distillation on CIFAR-10 need not train one.
`tools/bundle.py` makes its files from runs of kdflow."""

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdflow.catalogue.networks import NETWORKS
from kdflow.catalogue.networks.record import Spec
from kdflow.config.views import Views
from kdflow.dataset import Dataset
from kdflow.hardware import Precision

FOLDER = Path(__file__).parent / "bundled"
LOGITS = FOLDER / "logits"
VIEWS = Views(2)


def metadata() -> dict[str, Any]:
    """The bundled teacher's config, commit, digests and metrics."""
    content: dict[str, Any] = json.loads((FOLDER / "bundle.json").read_text())
    return content


def is_meant(source: str, dataset: Dataset) -> bool:
    """Whether `source` names the bundled teacher, whatever its holdout. The same images from a file
    have other class names."""
    is_cifar10 = dataset.name == "cifar10" and dataset.digest == metadata()["dataset_digest"]
    return bool(source == "auto" and is_cifar10)


def fits(source: str, dataset: Dataset, holdout: float) -> bool:
    """Whether the bundled teacher is what `source` names. Without a holdout there is no validation
    that a teacher could have seen."""
    return is_meant(source, dataset) and holdout in (0, metadata()["config"]["holdout"])


def has_logits(source: str, dataset: Dataset, holdout: float, views: Views, averaged: bool) -> bool:
    """Whether the logits of these views of what `source` names come with kdflow."""
    is_held = views.view_set == VIEWS.view_set and views.count <= VIEWS.count
    return is_held and not averaged and fits(source, dataset, holdout)


def precision() -> Precision:
    """What it was trained in, and its logits computed in."""
    trained_in: Precision = metadata()["config"]["precision"]
    return trained_in


def key() -> str:
    """The key of the runs that hold the bundled teacher."""
    content = metadata()
    names = ["bundled", {}, content["dataset_digest"], {"weights": content["weights"]}]
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def load_network(dataset: Dataset) -> keras.Model:
    """The bundled teacher's network."""
    record = NETWORKS[metadata()["config"]["arch"]]
    network = record.build(Spec(dataset.image_shape, dataset.classes))
    with np.load(FOLDER / "weights.npz") as stored:
        network.set_weights([stored[name].astype(np.float32) for name in weight_names(network)])
    return network


def weight_names(network: keras.Model) -> list[str]:
    """Under which names `weights.npz` holds the weights, in the network's order."""
    return [weight.path for weight in network.weights]
