"""The pictures that runs log."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def learning_curves(history: Sequence[dict[str, float]], title: str) -> Figure:
    """The labels' cross-entropy and the accuracy per epoch, of training and validation.

    Of a distillation's loss only the hard term is drawn: the soft one has another scale.

    Args:
        history: one dict of metrics per epoch, as `training.fit` returns it.
    """
    labels_loss = "train_hard_loss" if "train_hard_loss" in history[0] else "train_loss"
    panels = {
        "cross-entropy of the labels (nats)": {"training": labels_loss, "validation": "val_loss"},
        "accuracy": {"training": "train_accuracy", "validation": "val_accuracy"},
    }
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    epochs = range(1, len(history) + 1)
    for axes, (ylabel, curves) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for label, metric in curves.items():
            values = [metrics[metric] for metrics in history]
            axes.plot(epochs, values, marker="." if len(values) < 50 else None, label=label)
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
