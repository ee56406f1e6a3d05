"""Train one network inside the open run and log all that makes it comparable: what the steps
`teacher`, `baseline` and `distill` share, and what of it `hint` does too."""

import resource
import sys

import keras
import numpy as np

from kdflow import evaluate, models, plots, tracking, training
from kdflow.config import Config, TrainingConfig
from kdflow.data import Dataset, split
from kdflow.logits import Logits
from kdflow.steps.record import StepResult


def train_network(
    run_id: str,
    name: str,
    config: TrainingConfig,
    data: Dataset,
    *,
    view_count: int,
    label_smoothing: float = 0.0,
    distillation: training.Distillation | None = None,
    teacher: Logits | None = None,
    initial: keras.Model | None = None,
    on_epoch: training.OnEpoch = lambda epoch, metrics: None,
    keep: bool = True,
) -> StepResult:
    """Build, train, evaluate once, log.

    Args:
        run_id, name: of the open run.
        teacher: whose test logits the network's predictions are compared with.
        initial: lower layers of the same network with the weights that those start from; all
            others start from random ones.
        on_epoch: called with each epoch and its metrics, once they are logged.
        keep: whether the run gets the model and its pictures, or just figures.
    """

    def log_epoch(epoch: int, metrics: training.Metrics) -> None:
        tracking.log_metrics(metrics, epoch)
        on_epoch(epoch, metrics)

    train, validation = split_images(config, data)
    network = models.build(
        config.network,
        data.x_train[train.indices],
        data.classes,
        seed=config.seed,
        dropout=config.dropout,
    )
    if initial is not None:
        models.start_from(network, initial)
    print(f"{config.network}: {network.count_params():,} parameters, {len(train.indices):,} images")
    history = training.fit(
        network,
        train,
        validation,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        schedule=config.schedule,
        label_smoothing=label_smoothing,
        view_count=view_count,
        distillation=distillation,
        on_epoch=log_epoch,
    )
    final = {"parameters": float(network.count_params())}
    if config.evaluate_test:
        logits = evaluate.predict_logits(network, data.x_test)
        taught = teacher.test[0] if teacher else None
        final |= evaluate.final_metrics(logits, data.y_test, taught)
        tracking.log_array(logits, "test_logits.npy")
    final["peak_memory_mb"] = peak_memory_mb()
    tracking.log_metrics(final)
    if keep:
        tracking.set_tags({"kdflow.weights_sha256": models.weights_sha256(network)})
        tracking.log_model(network)
        tracking.log_figure(plots.learning_curves(history, name), "learning_curves.png")
    result = StepResult(run_id, history[-1] | final)
    print(f"{name}: {_in_words(result.metrics)}")
    if teacher and config.evaluate_test:
        print(
            f"its teacher, {teacher.manifest.network}: test accuracy"
            f" {teacher.manifest.accuracy['test']:.4f}, agrees with the student on"
            f" {result.metrics['teacher_agreement']:.4f} of the test images"
        )
    return result


def split_images(config: Config, data: Dataset) -> tuple[training.Images, training.Images]:
    """The training and the validation images that `config.holdout` asks for."""
    train, validation = split(data.y_train, config.holdout)
    train_images = training.Images(data.x_train, data.y_train, train)
    if len(validation):
        return train_images, training.Images(data.x_train, data.y_train, validation)
    print("holdout=0, the notebook's protocol: all val_ metrics are of the TEST set")
    tracking.set_tags({"kdflow.validation": "the test set (holdout=0, the notebook's protocol)"})
    return train_images, training.Images(data.x_test, data.y_test, np.arange(len(data.y_test)))


def _in_words(metrics: dict[str, float]) -> str:
    """The result in a few words: test figures if there are any, else validation."""
    if "test_accuracy" not in metrics:
        return f"validation accuracy {metrics['val_accuracy']:.4f} (test set not read)"
    return (
        f"test accuracy {metrics['test_accuracy']:.4f}, NLL {metrics['test_nll']:.4f},"
        f" ECE {metrics['test_ece']:.4f}"
    )


def peak_memory_mb() -> float:
    """The most memory that this process has held at once, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere
