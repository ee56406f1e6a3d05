"""Train one network and log it: what the steps `teacher`, `baseline` and `distill` share."""

from collections.abc import Iterator

import keras
import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.utils.class_weight import compute_class_weight

from kdflow import network as networks
from kdflow.artifacts.logits import Logits
from kdflow.artifacts.manifest import Manifest
from kdflow.config.base import Config
from kdflow.config.training import TrainingConfig
from kdflow.dataset import Dataset, Images, split
from kdflow.evaluate import classes, metrics, plots
from kdflow.features import start_from
from kdflow.image_file import batch_count
from kdflow.memory import peak_memory_mb
from kdflow.network import record_of
from kdflow.size import Size, size_of
from kdflow.tags import VALIDATION_TAG, WEIGHTS_TAG
from kdflow.tracking.run import Run
from kdflow.training.loop import Epoch, fit
from kdflow.training.objective import Labels, Objective
from kdflow.training.progress import Metrics
from kdflow.training.selection import best_epoch

SHOWN_WRONG = 24  # images
DRAWN_CHANNELS = (1, 3, 4)  # those of images that a picture can show
KEPT_ACCURACY = "kept_val_accuracy"
MAX_INITIAL_SHARE = 0.1  # of the statistics of batch normalisation


def train_network(
    run: Run,
    config: TrainingConfig,
    dataset: Dataset,
    objective: Objective,
    title: str,
    *,
    teacher: Logits | None = None,
    initial: keras.Model | None = None,
) -> dict[str, float]:
    """Build, train, evaluate once, log; returns the last metrics.

    Args:
        teacher: whose test logits the network's predictions are compared with.
        initial: lower layers of the same network with the weights that those start from; all
            others start from random ones.
    """
    network, epochs = start_training(run, config, dataset, objective, initial)
    if teacher:
        print(_teachers_size(network, teacher.manifest))
    history: list[Metrics] = []
    for epoch, measured in epochs:
        run.log(measured, epoch)
        history.append(measured)
    run.set_tags({WEIGHTS_TAG: networks.weights_sha256(network)})
    run.log_model(network, dataset.class_names)
    final = evaluate_and_log(run, config, dataset, network, teacher)
    run.log_figure(plots.learning_curves(history, title), "learning_curves.png")
    last = log_kept_epoch(run, config, history) | final
    print(f"{title}: {_in_words(last)}")
    if teacher and config.evaluate_test:
        print(
            f"its teacher, {teacher.manifest.network}: test accuracy"
            f" {teacher.manifest.accuracy['test']:.4f}, agrees with the student on"
            f" {last['teacher_agreement']:.4f} of the test images"
        )
    return last


def _teachers_size(student: keras.Model, teacher: Manifest) -> str:
    """The size of the teacher, as far as it is known, and whether the student is the larger one."""
    of_student = size_of(student)
    of_teacher = [getattr(teacher, name) for name in Size._fields]
    shown = "size not known" if None in of_teacher else str(Size(*of_teacher))
    line = f"its teacher, {teacher.network}: {shown}"
    larger = [
        name.replace("_", "-")
        for name, theirs, ours in zip(Size._fields, of_teacher, of_student, strict=True)
        if theirs is not None and ours > theirs
    ]
    if larger:
        line += f"\nWARNING: the student is larger than its teacher: more {', '.join(larger)}"
    return line


def log_kept_epoch(run: Run, config: TrainingConfig, history: list[Metrics]) -> Metrics:
    """The metrics of the epoch whose weights a training ends with; logs which it is and how well it
    does on validation images, unless it is always the last one."""
    if config.keep == "last":
        return history[-1]
    epoch = best_epoch(history, config.keep)
    metrics = history[epoch - 1]
    of_the_epoch = {"kept_epoch": float(epoch), KEPT_ACCURACY: metrics["val_accuracy"]}
    run.log(of_the_epoch)
    return metrics | of_the_epoch


def labels_term(config: TrainingConfig, dataset: Dataset) -> Labels:
    """The labels' part of what a training minimises."""
    weights: tuple[float, ...] = ()
    if config.class_weight == "balanced":
        train, _ = split(dataset.y_train, config.holdout)
        balanced = compute_class_weight(
            "balanced", classes=np.arange(dataset.classes), y=dataset.y_train[train]
        )
        weights = tuple(balanced.tolist())
    return Labels(config.label_smoothing, weights)


def start_training(
    run: Run,
    config: TrainingConfig,
    dataset: Dataset,
    objective: Objective,
    initial: keras.Model | None = None,
) -> tuple[keras.Model, Iterator[Epoch]]:
    """The network, and its epochs, which are trained as they are taken from the iterator."""
    train, validation = split_images(run, config, dataset)
    network = networks.build(
        config.network,
        train,
        dataset.classes,
        seed=config.seed,
        dropout=config.dropout,
        keeps_weights=config.keeps_weights,
    )
    if initial is not None:
        start_from(network, initial)
    name = record_of(config.network).name
    print(f"{name}: {size_of(network)}; {len(train.indices):,} images")
    steps = config.epochs * batch_count(len(train.indices), config.batch_size)
    untrained = networks.untrained_statistics(network, steps)
    if untrained > MAX_INITIAL_SHARE and not config.keeps_weights:
        print(
            f"{name}: after the {steps:,} steps of this training, {untrained:.0%} of the statistics"
            " of batch normalisation will still be their initial values, so that validation and"
            " test accuracy will be low; use more epochs or a smaller batch_size"
        )
    return network, fit(network, train, validation, objective, config.settings, run.checkpoint)


def evaluate_and_log(
    run: Run,
    config: TrainingConfig,
    dataset: Dataset,
    network: keras.Model,
    teacher: Logits | None = None,
) -> dict[str, float]:
    """Evaluate a trained network and log the figures, which are returned."""
    final = size_metrics(network)
    if config.evaluate_test:
        logits = metrics.predict_logits(network, dataset.x_test)
        taught = teacher.test[0] if teacher else None
        final |= metrics.final_metrics(logits, dataset.y_test, taught)
        run.log_array(logits, "test_logits.npy")
        log_classes(run, dataset, logits)
    final["peak_memory_mb"] = peak_memory_mb()
    run.log(final)
    return final


def log_classes(run: Run, dataset: Dataset, logits: np.ndarray) -> None:
    """Log what a network gets right and wrong of the test images, class by class.

    Args:
        logits: of the test images, (images, classes).
    """
    names, labels = dataset.class_names, dataset.y_test
    run.log_table(classes.by_class(logits, labels, names), "classes.json")
    counts = classes.confusions(logits, labels)
    run.log_text(pd.DataFrame(counts, names, names).to_csv(index_label="class"), "confusions.csv")
    run.log_figure(plots.confusions(counts, names, "test images"), "confusions.png")
    worst = classes.most_confidently_wrong(logits, labels, SHOWN_WRONG)
    if len(worst) and dataset.image_shape[2] in DRAWN_CHANNELS:
        probabilities = softmax(logits[worst].astype(np.float64), axis=-1)
        captions = [
            f"{names[label]}, predicted\n{names[row.argmax()]} ({row.max():.2f})"
            for label, row in zip(labels[worst], probabilities, strict=True)
        ]
        title = "the most confidently wrong test images"
        run.log_figure(plots.sheet(dataset.x_test[worst], captions, title), "wrong.png")


def size_metrics(network: keras.Model) -> dict[str, float]:
    """How large a network is, under the names that every step logs."""
    return {name: float(value) for name, value in size_of(network)._asdict().items()}


def split_images(run: Run, config: Config, dataset: Dataset) -> tuple[Images, Images]:
    """The training and the validation images that `config.holdout` asks for."""
    train, validation = split(dataset.y_train, config.holdout)
    train_images = Images(dataset.x_train, dataset.y_train, train)
    if len(validation):
        return train_images, Images(dataset.x_train, dataset.y_train, validation)
    print("holdout=0, the notebook's protocol: all val_ metrics are of the TEST set")
    run.set_tags({VALIDATION_TAG: "the test set (holdout=0, the notebook's protocol)"})
    everything = np.arange(len(dataset.y_test))
    return train_images, Images(dataset.x_test, dataset.y_test, everything)


def _in_words(measured: dict[str, float]) -> str:
    """The result in a few words: test figures if there are any, else validation."""
    if "test_accuracy" not in measured:
        return f"validation accuracy {measured['val_accuracy']:.4f} (test set not read)"
    return (
        f"test accuracy {measured['test_accuracy']:.4f}, NLL {measured['test_nll']:.4f},"
        f" ECE {measured['test_ece']:.4f}"
    )
