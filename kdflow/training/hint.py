"""The first stage of FitNets: a student's lower layers learn a teacher's hints."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import ops

from kdflow import interrupts
from kdflow.artifacts.checkpoints import Checkpoint
from kdflow.artifacts.hints import Hints
from kdflow.config.fitting import Settings
from kdflow.dataset import SPLIT_SEED, Images
from kdflow.evaluate.metrics import PREDICT_BATCH, class_means, nearest_class
from kdflow.image_file import Pixels, batch_count, batches
from kdflow.kernels import fast_kernels
from kdflow.losses import hint_loss
from kdflow.pipeline import one_at_a_time
from kdflow.training.loop import Epoch, Loop
from kdflow.training.optimizers import make_optimizer
from kdflow.training.order import epoch_order
from kdflow.training.progress import Metrics
from kdflow.training.speed import batches_at_once

MAX_PROBE_IMAGES, MIN_PER_CLASS = 5_000, 20  # images of the probe, of all classes; of each class


def fit_hint(
    guided: keras.Model,
    train: Images,
    validation: Images,
    *,
    train_hints: Hints,
    validation_hints: Hints,
    settings: Settings,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Epoch]:
    """Train the lower part of a student in place, so that a regressor turns its output into a
    teacher's hints; yields each epoch, from 1, with its metrics. The regressor is dropped at the
    end (Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", section 2.2).

    The regressor is linear, where the paper's has the hint layer's own non-linearity: so any layer
    can be a hint. It is a 1x1 convolution; where the guided maps are a whole number of times higher
    and wider than the hints, one with that stride; where the sizes differ otherwise, the maps are
    resized first. `losses.hint_loss` is minimised.

    Args:
        guided: from uint8 images to the output of the guided layer, (batch, height, width,
            channels).
        validation: what `val_hint_loss` is computed on after each epoch, and `val_probe_accuracy`:
            how often the nearest class mean of the guided layer's outputs is the label's, the means
            being those of `probe_indices`.
        train_hints, validation_hints: of all of `train.images` and of `validation.images`.
        checkpoint: see `loop.fit`.

    Raises:
        KdflowError: the loss became NaN or infinite; names the epoch and by which batch.
    """
    regressed = regressed_maps(guided.output, train_hints.shape, settings.seed)
    learner = keras.Model(guided.input, regressed, name="hint_learner")
    epoch_batches = batch_count(len(train.indices), settings.batch_size)
    learner.compile(
        optimizer=make_optimizer(settings, epoch_batches),
        loss=hint_loss,
        steps_per_execution=batches_at_once(guided, settings.batch_size),
    )
    observer = keras.Model(guided.input, [guided.output, regressed], name="hint_observer")

    def data(epoch: int, first: int, end: int) -> dict[str, Any]:
        order, _ = epoch_order(train.indices, settings.seed, epoch)
        part = batches(order, settings.batch_size)[first:end]
        return one_at_a_time(_HintBatches(train.images, train_hints, part))

    loop = Loop(
        learner,
        learner,
        data,
        images=len(train.indices),
        part=epoch_batches,  # read batch by batch
        settings=settings,
        checkpoint=checkpoint,
    )
    probed = probe_indices(train)
    yield from enumerate(loop.history, start=1)
    for epoch, means, speed in loop:
        probe = class_means(guided, train.images, train.labels, probed)
        validated = _validate_hint(observer, probe, validation, validation_hints)
        metrics = {"hint_loss": means["loss"]} | validated | speed
        shown = ("hint_loss", "val_hint_loss", "val_probe_accuracy")
        yield loop.finish_epoch(epoch, metrics, shown, watched="val_hint_loss")


def probe_indices(train: Images) -> np.ndarray:
    """The training images whose class means are the probe, ascending indices: about
    `MAX_PROBE_IMAGES`, or `MIN_PER_CLASS` of each class if that is more, drawn at random, always
    the same ones. All images would cost one more pass through the guided layers in each epoch."""
    drawn = np.random.default_rng(SPLIT_SEED).permutation(train.indices)
    labels = pd.Series(train.labels[drawn])
    per_class = max(MAX_PROBE_IMAGES // labels.nunique(), MIN_PER_CLASS)
    return np.sort(drawn[labels.groupby(labels).cumcount() < per_class])


def regressed_maps(
    guided: keras.KerasTensor, hint_shape: tuple[int, int, int], seed: int
) -> keras.KerasTensor:
    """The guided layer's output as maps of `hint_shape`, (height, width, channels)."""
    height, width, channels = hint_shape
    down, across = guided.shape[1] // height, guided.shape[2] // width
    if (height * down, width * across) != tuple(guided.shape[1:3]):
        guided = keras.layers.Resizing(height, width, antialias=True, name="resized")(guided)
        down = across = 1
    return keras.layers.Conv2D(
        channels,
        (down, across),
        strides=(down, across),
        kernel_initializer=keras.initializers.GlorotNormal(seed),
        name="regressor",
    )(guided)


def _validate_hint(
    observer: keras.Model, probe: np.ndarray, validation: Images, hints: Hints
) -> Metrics:
    """The error of the hints, and how often the nearest of the class means `probe` is the label's.

    Args:
        observer: from images to the guided layer's output, and to what the regressor makes of it.
    """
    errors, correct = [], []
    with fast_kernels(observer):
        for batch in batches(validation.indices, PREDICT_BATCH):
            with interrupts.delayed_to_the_end():
                guided, regressed = observer.predict_on_batch(validation.images[batch])
                error = hint_loss(hints.of(batch).astype(np.float32), regressed)
                errors.append(ops.convert_to_numpy(error))
            correct.append(nearest_class(guided, probe) == validation.labels[batch])
    return {
        "val_hint_loss": float(np.concatenate(errors).mean()),
        "val_probe_accuracy": float(np.concatenate(correct).mean()),
    }


class _HintBatches(keras.utils.PyDataset):
    """An epoch's images and hints, gathered batch by batch: all of the hints would not fit in
    memory."""

    def __init__(self, images: Pixels, hints: Hints, batches: list[np.ndarray]) -> None:
        super().__init__()
        self.images, self.hints, self.batches = images, hints, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self.batches[index]
        return self.images[batch], self.hints.of(batch)
