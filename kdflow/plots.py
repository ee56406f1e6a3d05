"""The pictures that runs log."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def learning_curves(history: Sequence[dict[str, float]], title: str) -> Figure:
    """Loss and accuracy per epoch, of training and validation.

    Args:
        history: one dict of metrics per epoch, as `training.fit` returns it.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    epochs = range(1, len(history) + 1)
    for axes, metric, unit in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), (" (nats)", ""), strict=True
    ):
        for part, name in (("train", "training"), ("val", "validation")):
            values = [metrics[f"{part}_{metric}"] for metrics in history]
            axes.plot(epochs, values, marker="." if len(values) < 50 else None, label=name)
        axes.set(xlabel="epoch", ylabel=metric + unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
