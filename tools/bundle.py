"""Make the bundled teacher from an export of CIFAR-10 and its teacher's run in the tracking store.

    python tools/bundle.py <id of an export_logits run with views=2>

Weights and logits are stored in half precision; `bundle.json` says what they came from.
"""

import json
import sys

import numpy as np

from kdflow import bundle, network
from kdflow.artifacts import logits
from kdflow.dataset import sha256
from kdflow.steps.run import load
from kdflow.tracking import artifacts
from kdflow.tracking.find import get_run


def make(export_run_id: str) -> None:
    """Write the bundle from an export of CIFAR-10 and the teacher that it was made from."""
    export = get_run(export_run_id)
    teacher = get_run(export.tags["kdflow.upstream.model"])
    config = artifacts.read_json(teacher, "config.json")
    cifar10 = load("cifar10", config["holdout"])
    read = logits.read(artifacts.logits_folder(export), cifar10, views=bundle.VIEWS)
    model = artifacts.load_model(teacher)
    bundle.FOLDER.mkdir(exist_ok=True)
    halves = [weight.astype(np.float16) for weight in model.get_weights()]
    np.savez_compressed(
        bundle.FOLDER / "weights.npz",
        **dict(zip(bundle.weight_names(model), halves, strict=True)),
    )
    described = {
        "config": config,
        "commit": teacher.tags["mlflow.source.git.commit"],
        "dataset_digest": cifar10.digest,
        "weights": sha256(np.concatenate([half.ravel() for half in halves])),
        "metrics": teacher.metrics,
    }
    (bundle.FOLDER / "bundle.json").write_text(json.dumps(described, indent=2) + "\n")
    logits.write(
        bundle.LOGITS,
        read.train[: bundle.VIEWS.count].astype(np.float16),
        read.test[:1].astype(np.float16),
        cifar10,
        teacher=teacher.run_id,
        network=read.manifest.network,
        parameters=read.manifest.parameters,
        multiply_adds=read.manifest.multiply_adds,
        weight_bytes=read.manifest.weight_bytes,
        weights_sha256=network.weights_sha256(bundle.load_network(cifar10)),
        holdout=read.manifest.holdout,
    )


if __name__ == "__main__":
    make(sys.argv[1])
