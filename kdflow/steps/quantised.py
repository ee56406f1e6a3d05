"""Quantisation-aware distillation: a network whose int8 file loses too much accuracy is
fine-tuned on the logits that taught it, while it computes as the file will."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from kdflow.config.base import validated
from kdflow.config.fitting import Settings
from kdflow.config.objective import ObjectiveConfig
from kdflow.config.views import ONE_VIEW, Views
from kdflow.dataset import Dataset, Images, split
from kdflow.deploy.files import all_logits, open_file
from kdflow.deploy.pixels import exportable
from kdflow.deploy.simulated import simulated
from kdflow.evaluate.metrics import accuracy, predict_logits
from kdflow.results.records import TeacherLogits, TrainedModel
from kdflow.steps import distill
from kdflow.tracking import artifacts
from kdflow.tracking.find import get_run
from kdflow.tracking.run import Run
from kdflow.training.loop import fit
from kdflow.training.objective import Distillation

if TYPE_CHECKING:
    from kdflow.config.deploy import DeployConfig

BATCH_SIZE, LEARNING_RATE = 64, 1e-3
# Parameters of a distillation that say how its student is taught.
REUSED = {*ObjectiveConfig.model_fields, "label_smoothing", "class_weight"}


class FineTuning(NamedTuple):
    """What a network is fine-tuned on.

    Attributes:
        views: in which it sees each image.
        words: whose logits they are.
    """

    objective: Distillation
    views: Views
    words: str


def fine_tune_if_worse(
    run: Run,
    config: DeployConfig,
    dataset: Dataset,
    model: TrainedModel,
    logits: TeacherLogits | None,
    path: Path,
    write: Callable[[keras.Model], None],
) -> dict[str, Any] | None:
    """If an int8 file loses more than the margin on validation or training images, train its
    network to compute as the file does, and write the file again; the better of the two is kept.

    Args:
        logits: those that the model was distilled from; None if it was not, or they are not in the
            store: then it learns from its own.
        path: the file.
        write: writes the file, of a network.

    Returns:
        What was done, for the manifest; None if the file stays as it is.
    """
    indices, words = _watched(dataset, config.holdout)
    labels = dataset.y_train[indices]
    before = accuracy(predict_logits(model.network, dataset.x_train, indices), labels)

    def lost() -> float:
        """How much the file loses, in percentage points."""
        answers = all_logits(open_file(path), dataset.x_train, indices)
        return 100 * (before - accuracy(answers, labels))

    lost_plain = lost()
    run.log({"quantised_lost_before": lost_plain})
    if lost_plain <= config.margin or not config.quantised_epochs:
        return None
    tuning = _fine_tuning(config, dataset, model, logits)
    print(
        f"{path.name}: loses {lost_plain:.2f} points of accuracy on the {words}, more than"
        f" {config.margin:g}; {config.quantised_epochs} epochs of quantisation-aware distillation"
        f" from {tuning.words}"
    )
    plain = path.read_bytes()
    write(_trained(run, config, dataset, model, tuning, indices))
    lost_tuned = lost()
    run.log({"quantised_lost_after": lost_tuned})
    is_better = lost_tuned < lost_plain
    print(
        f"{path.name}: loses {lost_tuned:.2f} points after quantisation-aware distillation"
        + ("" if is_better else "; the original file is kept")
    )
    if not is_better:
        path.write_bytes(plain)
        return None
    return {
        "epochs": config.quantised_epochs,
        "from": tuning.words,
        "lost_points_before": lost_plain,
        "lost_points_after": lost_tuned,
        "of": words,
    }


def _watched(dataset: Dataset, holdout: float) -> tuple[np.ndarray, str]:
    """The images that decide, never test images, and what they are called."""
    train, validation = split(dataset.y_train, holdout)
    return (validation, "validation images") if len(validation) else (train, "training images")


def _fine_tuning(
    config: DeployConfig, dataset: Dataset, model: TrainedModel, logits: TeacherLogits | None
) -> FineTuning:
    if logits is None:
        own = predict_logits(model.network, dataset.x_train)[np.newaxis]
        return FineTuning(Distillation(own, temp=1, alpha=1), ONE_VIEW, "its own logits")
    values = artifacts.read_json(get_run(model.source), "config.json")
    taught_by = {name: value for name, value in values.items() if name in REUSED}
    distilled = validated(distill.DistillConfig, taught_by | dataset.parameters)
    taught = distill.objective(distilled, dataset, logits)
    words = f"the logits of {logits.logits.manifest.network}"
    return FineTuning(taught, distilled.shown, words)


def _trained(
    run: Run,
    config: DeployConfig,
    dataset: Dataset,
    model: TrainedModel,
    tuning: FineTuning,
    watched: np.ndarray,
) -> keras.Model:
    """A copy of the network that is fine-tuned.

    Args:
        watched: see `_watched`.
    """
    keras.utils.set_random_seed(config.calibration_seed)  # dropout draws its own as it is built
    network = exportable(model.network)
    train, validation = split(dataset.y_train, config.holdout)
    settings = Settings(
        "adam",
        LEARNING_RATE,
        config.quantised_epochs,
        BATCH_SIZE,
        config.calibration_seed,
        schedule="cosine",
        views=tuning.views,
        keep="best_accuracy" if len(validation) else "last",
    )
    epochs = fit(
        simulated(network, config.weight_bits),
        Images(dataset.x_train, dataset.y_train, train),
        Images(dataset.x_train, dataset.y_train, watched),
        tuning.objective,
        settings,
    )
    for epoch, metrics in epochs:
        run.log({f"quantised_{name}": value for name, value in metrics.items()}, epoch)
    return network
