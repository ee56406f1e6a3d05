"""The one fit loop that every step trains through."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from kdflow import views
from kdflow.errors import KdflowError
from kdflow.evaluate import (
    PREDICT_BATCH,
    accuracy,
    batches,
    class_means,
    nearest_class,
    nll,
    predict_logits,
)
from kdflow.hints import Hints
from kdflow.losses import cross_entropy, distillation_loss, hint_loss

Metrics = dict[str, float]
OnEpoch = Callable[[int, Metrics], None]


class Triangular(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0.2 of `peak` up to it at 0.23 of the way, then down to 0.07 of it: the schedule
    of Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"."""

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: Any) -> Any:
        progress = ops.cast(step, "float32") / self.steps
        rising = 0.2 + 0.8 * progress / 0.23
        falling = 0.07 + 0.93 * (1 - progress) / 0.77
        return self.peak * ops.minimum(rising, falling)


class SpeedrunSGD(keras.optimizers.SGD):
    """SGD as in Jordan 2024: Nesterov momentum 0.85, weights that decay, a learning rate 64 times
    as large for the biases of batch normalisation, and Lookahead (Zhang et al. 2019): every 5 steps
    and at the last one the weights go back part of the way to where they were, the further the
    later it is."""

    def __init__(self, rate: Any, steps: int) -> None:
        # there 0.0153 a batch of 1,024 at any rate, which momentum multiplies by 1 / (1 - 0.85)
        super().__init__(rate, momentum=0.85, nesterov=True, weight_decay=WEIGHT_DECAY)
        self.steps = steps

    def build(self, variables: list[keras.Variable]) -> None:
        if not self.built:
            super().build(variables)
            self.slow = self.add_optimizer_variables(variables, "slow")
            for slow, variable in zip(self.slow, variables, strict=True):
                slow.assign(variable)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        # a backend may pass its own variable, which has another name
        if self._trainable_variables[index].name == "beta":
            learning_rate = BIAS_RATE * learning_rate
        super().update_step(gradient, variable, learning_rate)
        step = self.iterations + 1
        slow, fast = map(ops.convert_to_tensor, (self.slow[index], variable))
        way_back = LOOKAHEAD_RETURN * (ops.cast(step, fast.dtype) / self.steps) ** 3
        between = way_back * slow + (1 - way_back) * fast
        due = ops.logical_or(ops.equal(step % LOOKAHEAD_STEPS, 0), ops.equal(step, self.steps))
        self.assign(self.slow[index], ops.where(due, between, slow))
        self.assign(variable, ops.where(due, between, fast))


OPTIMIZERS: dict[str, Callable[[Any, int], keras.Optimizer]] = {
    "adam": lambda rate, steps: keras.optimizers.Adam(rate),
    "sgd": lambda rate, steps: keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
    "speedrun": SpeedrunSGD,
}

SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda peak, steps: peak,
    "cosine": lambda peak, steps: keras.optimizers.schedules.CosineDecay(peak, steps),
    "triangular": Triangular,
}

WEIGHT_DECAY = 0.0178  # per step and unit of learning rate
BIAS_RATE = 64
LOOKAHEAD_STEPS = 5
LOOKAHEAD_RETURN = 0.95**5  # at the last step

# The time that a training will take is told after these batches, or as soon after them as Python
# has its turn, if it is long enough to matter.
WARM_UP_BATCHES, TIMED_BATCHES = 3, 10
WORTH_TELLING = 120  # seconds
AT_ONCE, WORK_AT_ONCE = 16, 4e9  # batches and multiplications, at most: a fifth of a second
SAMPLED_BATCHES = 50


@dataclass(frozen=True)
class Images:
    """Images and labels in the data set's own order, and which of them to use.

    Attributes:
        images: uint8, (n, height, width, channels).
        labels: integers, (n,).
        indices: the chosen ones, (m,).
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True)
class Distillation:
    """What a student learns from besides labels; see `losses.distillation_loss`.

    Attributes:
        teacher_logits: (views, n, classes), n in the order of `Images`, at least the views that
            the student is trained on.
        weights: those that the soft term of `loss` takes, by name.
    """

    teacher_logits: np.ndarray
    temp: float
    alpha: float
    t_squared: bool = True
    loss: str = "kd"
    weights: dict[str, float] = field(default_factory=dict)


def fit(
    network: keras.Model,
    train: Images,
    validation: Images,
    *,
    optimizer: str,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    schedule: str = "constant",
    label_smoothing: float = 0.0,
    view_count: int = 1,
    distillation: Distillation | None = None,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
) -> list[Metrics]:
    """Train `network` in place, from labels or, with `distillation`, from a teacher's logits too.

    The order of the images in epoch e, and the view of each, are a pure function of (seed, e).

    Args:
        network: from uint8 images to logits.
        validation: what `val_loss` (the labels' cross-entropy in nats, whatever is minimised) and
            `val_accuracy` are computed on after each epoch.
        learning_rate: the largest that the `schedule` gives, one of `SCHEDULES`.
        label_smoothing: the share of each label that is spread evenly over all classes (Szegedy et
            al. 2016, section 7).
        view_count: each image is shown in one of the first `view_count` of `views.VIEWS`.
        on_epoch: called with the epoch, from 1, and its metrics.

    Returns:
        The metrics of each epoch.

    Raises:
        KdflowError: the loss became NaN or infinite; names the epoch and by which batch.
    """
    steps = epochs * len(batches(train.indices, batch_size))
    rate = SCHEDULES[schedule](learning_rate, steps)
    learner = _Learner(network, distillation, label_smoothing)
    learner.compile(
        optimizer=OPTIMIZERS[optimizer](rate, steps),
        steps_per_execution=batches_at_once(network, batch_size),
    )

    def data(epoch: int) -> dict[str, Any]:
        images, targets = epoch_data(train, distillation, view_count, seed, epoch)
        return {"x": images, "y": targets, "batch_size": batch_size}

    def measure(means: Metrics) -> Metrics:
        trained = {f"train_{name}": mean for name, mean in means.items()}
        return trained | _validate(network, validation)

    return _fit_epochs(
        learner,
        data,
        measure,
        epochs=epochs,
        steps=steps,
        images=len(train.indices),
        shown=("train_loss", "train_accuracy", "val_loss", "val_accuracy"),
        watched="val_loss",
        on_epoch=on_epoch,
    )


def batches_at_once(network: keras.Model, batch_size: int) -> int:
    """How many batches are trained on before Python has its turn: many where there is little to do,
    since the way back takes a tenth of the time then; one where there is much, since only there the
    progress bar moves and Ctrl-C is heard."""
    per_image = sum(
        math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
        for layer in network.layers
        if hasattr(layer, "kernel")
    )
    return max(1, min(AT_ONCE, int(WORK_AT_ONCE / (per_image * batch_size))))


def seconds_per_image(network: keras.Model, train: Images, batch_size: int) -> float:
    """What training takes on this machine, by a few batches of it, which spoil the network."""
    learner = _Learner(network, None, label_smoothing=0)
    learner.compile(
        optimizer=OPTIMIZERS["adam"](0.001, SAMPLED_BATCHES),
        steps_per_execution=batches_at_once(network, batch_size),
    )

    def seconds(batch_count: int) -> float:
        chosen = np.resize(train.indices, batch_count * batch_size)
        targets = {"labels": train.labels[chosen]}
        started = time.perf_counter()
        learner.fit(train.images[chosen], targets, batch_size=batch_size, verbose=0)
        return time.perf_counter() - started

    seconds(WARM_UP_BATCHES)
    return seconds(SAMPLED_BATCHES) / (SAMPLED_BATCHES * batch_size)


def fit_hint(
    guided: keras.Model,
    train: Images,
    validation: Images,
    *,
    train_hints: Hints,
    validation_hints: Hints,
    learning_rate: float,
    epochs: int,
    batch_size: int,
    seed: int,
    on_epoch: OnEpoch = lambda epoch, metrics: None,
) -> list[Metrics]:
    """Train the lower part of a student in place, so that a regressor makes a teacher's hints of
    what it gives; the regressor goes with the end of this function (Romero et al. 2015, "FitNets:
    Hints for Thin Deep Nets", section 2.2).

    The regressor is linear, a 1x1 convolution, where the paper's has the hint layer's own
    non-linearity: so any layer can be a hint. `losses.hint_loss` is minimised with Adam.

    Args:
        guided: from uint8 images to the output of the guided layer, (batch, height, width,
            channels).
        validation: what `val_hint_loss` is computed on after each epoch, and `val_probe_accuracy`:
            how often the nearest class mean of the guided layer's outputs is the label's, the means
            being those of the training images.
        train_hints, validation_hints: of all `images` there; as high and wide as the guided layer's
            output.
        on_epoch: called with the epoch, from 1, and its metrics.

    Returns:
        The metrics of each epoch.

    Raises:
        KdflowError: the loss became NaN or infinite; names the epoch and by which batch.
    """
    steps = epochs * len(batches(train.indices, batch_size))
    regressor = keras.layers.Conv2D(
        train_hints.shape[-1],
        1,
        kernel_initializer=keras.initializers.GlorotNormal(seed),
        name="regressor",
    )
    regressed = regressor(guided.output)
    learner = keras.Model(guided.input, regressed, name="hint_learner")
    learner.compile(
        optimizer=OPTIMIZERS["adam"](learning_rate, steps),
        loss=hint_loss,
        steps_per_execution=batches_at_once(guided, batch_size),
    )
    observer = keras.Model(guided.input, [guided.output, regressed], name="hint_observer")

    def data(epoch: int) -> dict[str, Any]:
        order, _ = epoch_order(train.indices, seed, epoch)
        return {"x": _HintBatches(train.images, train_hints, batches(order, batch_size))}

    def measure(means: Metrics) -> Metrics:
        probe = class_means(guided, train.images, train.labels, train.indices)
        validated = _validate_hint(observer, probe, validation, validation_hints)
        return {"hint_loss": means["loss"]} | validated

    return _fit_epochs(
        learner,
        data,
        measure,
        epochs=epochs,
        steps=steps,
        images=len(train.indices),
        shown=("hint_loss", "val_hint_loss", "val_probe_accuracy"),
        watched="val_hint_loss",
        on_epoch=on_epoch,
    )


def _fit_epochs(
    learner: keras.Model,
    data: Callable[[int], dict[str, Any]],
    measure: Callable[[Metrics], Metrics],
    *,
    epochs: int,
    steps: int,
    images: int,
    shown: Sequence[str],
    watched: str,
    on_epoch: OnEpoch,
) -> list[Metrics]:
    """The loop itself: fit, measure and tell, epoch by epoch.

    Args:
        learner: compiled.
        data: what `learner.fit` takes in an epoch, in its final order.
        measure: from the means that `learner.fit` returns to the metrics of the epoch.
        steps, images: of all epochs together, and of one epoch.
        shown: the metrics that are printed.
        watched: the one, on the validation images, that has to stay finite.
    """
    history = []
    with tqdm(total=steps, unit="batch", disable=None, leave=False) as bar:
        watch = _Watch(bar, steps, epochs)
        for epoch in range(1, epochs + 1):
            started = time.perf_counter()
            learning_rate = float(learner.optimizer.learning_rate)
            # kept in no variable: the next epoch's would need fresh memory, which is slow
            log = learner.fit(**data(epoch), shuffle=False, verbose=0, callbacks=[watch]).history
            seconds = time.perf_counter() - started
            metrics = {
                **measure({name: values[0] for name, values in log.items()}),
                "learning_rate": learning_rate,
                "epoch_seconds": seconds,
                "images_per_second": images / seconds,
            }
            if not np.isfinite(metrics[watched]):  # the last update of all can spoil the weights
                raise KdflowError(
                    f"expected a finite validation loss, got {metrics[watched]} after epoch"
                    f" {epoch} of {epochs} (a smaller learning_rate may help)"
                )
            history.append(metrics)
            on_epoch(epoch, metrics)
            bar.write(_epoch_line(epoch, epochs, metrics, shown), file=sys.stdout)
    return history


def epoch_order(
    indices: np.ndarray, seed: int, epoch: int, view_count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The images of an epoch in their order, and the view in which each is shown.

    The shift of each image is drawn anew in every epoch; whether it is mirrored is drawn once and
    alternates from then on (Jordan 2024, section 3.6), so that two epochs show both.

    Args:
        indices: (m,), the images to choose from.

    Returns:
        Two arrays of (m,) integers: a permutation of `indices`, and the views, 0 to
        `view_count` - 1. Both follow from (seed, epoch) alone.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(indices)
    shown = rng.integers(view_count, size=len(order))
    mirrored_at_first = np.random.default_rng(seed).integers(2, size=indices.max() + 1)
    alternating = views.with_flip(shown, (mirrored_at_first[order] + epoch) % 2)
    return order, np.where(alternating < view_count, alternating, shown)


def epoch_data(
    train: Images, distillation: Distillation | None, view_count: int, seed: int, epoch: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the network sees in an epoch, in order: the images, each in its view, and the targets,
    which are their `labels` and, of just those views, the `teacher_logits`."""
    order, shown = epoch_order(train.indices, seed, epoch, view_count)
    images = views.apply(train.images, shown, order) if view_count > 1 else train.images[order]
    targets = {"labels": train.labels[order]}
    if distillation:
        logits = distillation.teacher_logits[shown, order]
        targets["teacher_logits"] = logits.astype(np.float32)
    return images, targets


def _validate(network: keras.Model, validation: Images) -> Metrics:
    labels = validation.labels[validation.indices]
    logits = predict_logits(network, validation.images[validation.indices])
    return {"val_loss": nll(logits, labels), "val_accuracy": accuracy(logits, labels)}


def _validate_hint(
    observer: keras.Model, probe: np.ndarray, validation: Images, hints: Hints
) -> Metrics:
    """The error of the hints, and how often the nearest of the class means `probe` is the label's.

    Args:
        observer: from images to the guided layer's output, and to what the regressor makes of it.
    """
    errors, correct = [], []
    for batch in batches(validation.indices, PREDICT_BATCH):
        guided, regressed = observer.predict_on_batch(validation.images[batch])
        error = hint_loss(hints.of(batch).astype(np.float32), regressed)
        errors.append(ops.convert_to_numpy(error))
        correct.append(nearest_class(guided, probe) == validation.labels[batch])
    return {
        "val_hint_loss": float(np.concatenate(errors).mean()),
        "val_probe_accuracy": float(np.concatenate(correct).mean()),
    }


def _epoch_line(epoch: int, epochs: int, metrics: Metrics, shown: Sequence[str]) -> str:
    words = "  ".join(f"{name} {metrics[name]:.4f}" for name in shown)
    return f"epoch {epoch:>{len(str(epochs))}}/{epochs}  {words}  {metrics['epoch_seconds']:.1f} s"


class _Learner(keras.Model):
    """A network with the distillation loss in place of a compiled one. Only its weights train."""

    def __init__(
        self, network: keras.Model, distillation: Distillation | None, label_smoothing: float
    ) -> None:
        super().__init__(name="learner")
        self.network = network
        self.distillation = distillation
        self.label_smoothing = label_smoothing
        self.means = {"accuracy": keras.metrics.Mean("accuracy")}
        if distillation:
            self.means["hard_loss"] = keras.metrics.Mean("hard_loss")
            self.means["soft_loss"] = keras.metrics.Mean("soft_loss")

    def call(self, images, training=None):  # type: ignore[no-untyped-def]
        return self.network(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):  # type: ignore[no-untyped-def]
        labels = y["labels"]
        correct = ops.equal(ops.argmax(y_pred, axis=-1), labels)
        self.means["accuracy"].update_state(correct)
        if self.distillation is None:
            return ops.mean(cross_entropy(labels, y_pred, self.label_smoothing))
        loss = distillation_loss(
            labels,
            y["teacher_logits"],
            y_pred,
            temp=self.distillation.temp,
            alpha=self.distillation.alpha,
            t_squared=self.distillation.t_squared,
            loss=self.distillation.loss,
            **self.distillation.weights,
        )
        self.means["hard_loss"].update_state(loss.hard)
        self.means["soft_loss"].update_state(loss.soft)
        return ops.mean(loss.total)


class _HintBatches(keras.utils.PyDataset):
    """An epoch's images and hints, gathered batch by batch: all of the hints would not fit in
    memory."""

    def __init__(self, images: np.ndarray, hints: Hints, batches: list[np.ndarray]) -> None:
        super().__init__()
        self.images, self.hints, self.batches = images, hints, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self.batches[index]
        return self.images[batch], self.hints.of(batch)


class _Watch(keras.callbacks.Callback):
    """Moves the progress bar, tells how long a long training will take, and stops at a loss that
    is no number. It is called once for all batches that ran together."""

    def __init__(self, bar: tqdm, steps: int, epochs: int) -> None:
        super().__init__()
        self.bar, self.steps, self.epochs = bar, steps, epochs
        self.epoch = 0
        self.done_before = self.done = 0  # batches, before this epoch and in all
        self.warm: tuple[int, float] | None = None  # the batches done then, and the time
        self.told = False

    def on_epoch_begin(self, epoch, logs=None):  # type: ignore[no-untyped-def]
        self.epoch += 1
        self.done_before = self.done

    def on_train_batch_end(self, batch, logs=None):  # type: ignore[no-untyped-def]
        of_this_epoch = min(batch + 1, self.params["steps"])  # Keras counts on past the last one
        loss = float(logs["loss"])  # the mean of the epoch so far: NaN stays NaN
        if not np.isfinite(loss):
            raise KdflowError(
                f"expected a finite loss, got {loss} in epoch {self.epoch} of {self.epochs}, by"
                f" batch {of_this_epoch} of {self.params['steps']} (a smaller learning_rate may"
                " help)"
            )
        done = self.done_before + of_this_epoch
        self.bar.update(done - self.done)
        self.done = done
        if not self.told:
            self._estimate()

    def _estimate(self) -> None:
        if self.warm is None:
            if self.done >= WARM_UP_BATCHES:
                self.warm = self.done, time.perf_counter()
            return
        timed = self.done - self.warm[0]
        if timed >= TIMED_BATCHES:
            self.told = True
            expected = (time.perf_counter() - self.warm[1]) / timed * self.steps
            if expected > WORTH_TELLING:
                message = f"this training will take about {expected / 60:.0f} minutes"
                self.bar.write(message, file=sys.stdout)
