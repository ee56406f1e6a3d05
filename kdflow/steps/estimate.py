"""How long the trainings of a plan will take on this machine."""

from collections.abc import Callable
from functools import cache

from kdflow import network
from kdflow.config.training import TrainingConfig
from kdflow.dataset import Dataset, Images, split
from kdflow.hardware import Precision
from kdflow.image_file import batch_count
from kdflow.needs import Planned
from kdflow.size import multiply_adds
from kdflow.steps.hint import HintConfig
from kdflow.training.speed import BATCH_SECONDS, seconds_per_image

WORTH_MEASURING = 1e12  # multiply-adds of a whole training: some ten seconds on two cores
MAX_OVERHEAD = 30  # seconds that the batches of a training take whatever the network


def duration_estimator(dataset: Dataset) -> Callable[[Planned], str]:
    """From a planned step to an estimate in words: measured on a few batches where it is long,
    empty where the step trains nothing."""

    @cache
    def multiply_adds_of(name: str) -> int:
        return multiply_adds(network.untrained(name, dataset.image_shape, dataset.classes))

    @cache
    def seconds_of(name: str, batch_size: int, holdout: float, precision: Precision) -> float:
        train = Images(dataset.x_train, dataset.y_train, split(dataset.y_train, holdout)[0])
        model = network.build(name, train, dataset.classes, seed=0)
        return seconds_per_image(model, train, batch_size, precision)

    def words(planned: Planned) -> str:
        config = planned.config
        if planned.step.verb != "train":
            return ""
        if isinstance(config, TrainingConfig):
            name = config.network
        elif isinstance(config, HintConfig):
            name = config.student
        else:
            return ""
        images = len(split(dataset.y_train, config.holdout)[0])
        shown = config.epochs * images
        overhead = config.epochs * batch_count(images, config.batch_size) * BATCH_SECONDS
        if shown * multiply_adds_of(name) < WORTH_MEASURING and overhead < MAX_OVERHEAD:
            return ", under a minute"
        measured = seconds_of(name, config.batch_size, config.holdout, config.computed_in)
        return f", about {_rounded(shown * measured)}"

    return words


def _rounded(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
