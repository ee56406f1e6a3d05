"""The teacher that comes with kdflow: bring it into the tracking store, so that a first
distillation on CIFAR-10 need not train one. `tools/bundle.py` made its files from runs of kdflow.
"""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdflow import evaluate, models, tracking
from kdflow.config import TeacherConfig
from kdflow.data import Dataset
from kdflow.steps.record import open_step

FOLDER = Path(__file__).parent.parent / "bundled"
LOGITS = FOLDER / "logits"
VIEWS = 2


def about() -> dict[str, Any]:
    """What the bundle says of its teacher: config, commit, digests, metrics."""
    described: dict[str, Any] = json.loads((FOLDER / "bundle.json").read_text())
    return described


def knows(source: str, data: Dataset) -> bool:
    """Whether the bundled teacher would be what `source` names, if its holdout were right. The same
    images from a file have other names for their classes."""
    is_cifar10 = data.name == "cifar10" and data.digest == about()["dataset_digest"]
    return bool(source == "auto" and is_cifar10)


def fits(source: str, data: Dataset, holdout: float) -> bool:
    """Whether the bundled teacher is what `source` names. Without a holdout there is no validation
    that a teacher could have seen."""
    return knows(source, data) and holdout in (0, about()["config"]["holdout"])


def key() -> str:
    """The key of the runs that hold the bundled teacher."""
    return tracking.run_key(
        "bundled", {}, about()["dataset_digest"], {"weights": about()["weights"]}
    )


def import_teacher(data: Dataset, *, child: bool = False) -> str:
    """Log the bundled teacher as a run of its own; returns the run id."""
    config = TeacherConfig(**about()["config"])
    with open_step(
        "teacher", f"teacher {config.arch} (bundled)", config, data, child=child
    ) as run_id:
        network = load_network(data)
        test_logits = evaluate.predict_logits(network, data.x_test)
        tracking.log_metrics(evaluate.final_metrics(test_logits, data.y_test))
        tracking.log_array(test_logits, "test_logits.npy")
        tracking.log_model(network)
        tracking.set_tags(
            {
                "kdflow.key": key(),
                "kdflow.weights_sha256": models.weights_sha256(network),
                "kdflow.bundled": f"trained by commit {about()['commit']}",
            }
        )
    return run_id


def load_network(data: Dataset) -> keras.Model:
    """The bundled teacher's network."""
    network = models.build(about()["config"]["arch"], data.x_train[:100], data.classes, seed=0)
    with np.load(FOLDER / "weights.npz") as stored:
        network.set_weights([stored[name].astype(np.float32) for name in weight_names(network)])
    return network


def weight_names(network: keras.Model) -> list[str]:
    """Under which names `weights.npz` holds the weights, in the network's order."""
    return [weight.path for weight in network.weights]
