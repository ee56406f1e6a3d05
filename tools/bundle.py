"""Make the bundled teacher from an export of CIFAR-10 and its teacher's run in the tracking store.

    python tools/bundle.py <id of an export_logits run with views=2>

Weights go into half precision, logits into float16; `bundle.json` says what they came from.
"""

import json
import sys

import numpy as np

from kdflow import data, logits, models, tracking
from kdflow.steps.bundled import FOLDER, LOGITS, VIEWS, load_network, weight_names


def make(export_run_id: str) -> None:
    """Write the bundle from an export of CIFAR-10 and the teacher that it was made from."""
    export = tracking.get_run(export_run_id)
    teacher = tracking.get_run(export.tags["kdflow.upstream.model"])
    cifar10 = data.load("cifar10")
    read = logits.read(tracking.logits_folder(export), cifar10, views=VIEWS)
    network = tracking.load_model(teacher)
    FOLDER.mkdir(exist_ok=True)
    halves = [weight.astype(np.float16) for weight in network.get_weights()]
    np.savez_compressed(
        FOLDER / "weights.npz", **dict(zip(weight_names(network), halves, strict=True))
    )
    described = {
        "config": tracking.read_json(teacher, "config.json"),
        "commit": teacher.tags["mlflow.source.git.commit"],
        "dataset_digest": cifar10.digest,
        "weights": data.sha256(np.concatenate([half.ravel() for half in halves])),
        "metrics": teacher.metrics,
    }
    (FOLDER / "bundle.json").write_text(json.dumps(described, indent=2) + "\n")
    logits.write(
        LOGITS,
        read.train[:VIEWS].astype(np.float16),
        read.test[:VIEWS].astype(np.float16),
        cifar10,
        teacher=teacher.run_id,
        network=read.manifest.network,
        parameters=read.manifest.parameters,
        weights_sha256=models.weights_sha256(load_network(cifar10)),
        holdout=read.manifest.holdout,
    )


if __name__ == "__main__":
    make(sys.argv[1])
