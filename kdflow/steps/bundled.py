"""Import the teacher that comes with kdflow into the tracking store. It has no entry point: other
steps need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdflow.naming import run_name
from kdflow.needs import Step
from kdflow.steps.teacher import TeacherConfig
from kdflow.tags import BUNDLED_TAG, KEY_TAG, WEIGHTS_TAG

if TYPE_CHECKING:
    from kdflow.dataset import Dataset
    from kdflow.tracking.run import Run


def title(config: TeacherConfig) -> str:
    return run_name("bundled", "teacher", config.arch)


def run(run: Run, config: TeacherConfig, dataset: Dataset) -> dict[str, float]:
    from kdflow import bundle, network
    from kdflow.evaluate.metrics import final_metrics, predict_logits

    model = bundle.load_network(dataset)
    test_logits = predict_logits(model, dataset.x_test)
    metrics = final_metrics(test_logits, dataset.y_test)
    run.log(metrics)
    run.log_array(test_logits, "test_logits.npy")
    run.log_model(model, dataset.class_names)
    run.set_tags(
        {
            KEY_TAG: bundle.key(),
            WEIGHTS_TAG: network.weights_sha256(model),
            BUNDLED_TAG: f"trained by commit {bundle.metadata()['commit']}",
        }
    )
    print(f"{title(config)}: test accuracy {metrics['test_accuracy']:.4f}")
    return metrics


BUNDLED = Step("teacher", TeacherConfig, title, run, verb="import")
