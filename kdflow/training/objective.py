"""What a training minimises: one object, from the labels or from a teacher's logits too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from keras import ops

from kdflow.catalogue.losses import LOSSES
from kdflow.losses import Tensor, cross_entropy


class Objective(Protocol):
    """What `fit` minimises.

    Attributes:
        reported: the terms, besides `loss`, whose means are logged.
    """

    reported: ClassVar[tuple[str, ...]]

    def targets(self, order: np.ndarray, shown: np.ndarray) -> dict[str, np.ndarray]:
        """What a batch needs besides labels, for images in this order and these views."""

    def terms(self, targets: Mapping[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
        """The loss of each example, (batch,), under `loss`, and what it is made of."""


@dataclass(frozen=True)
class Labels:
    """The labels' cross-entropy.

    Attributes:
        label_smoothing: the share of each label that is spread evenly over all classes (Szegedy et
            al. 2016, section 7).
        class_weights: what the loss of an example is multiplied by, one per class; none if empty.
    """

    reported: ClassVar[tuple[str, ...]] = ()

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def targets(self, order: np.ndarray, shown: np.ndarray) -> dict[str, np.ndarray]:
        return {}

    def terms(self, targets: Mapping[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
        """The loss of each example, (batch,), under `loss`."""
        loss = cross_entropy(targets["labels"], logits, self.label_smoothing)
        if self.class_weights:
            weights = ops.convert_to_tensor(self.class_weights, dtype=loss.dtype)
            loss = loss * ops.take(weights, ops.cast(targets["labels"], "int32"))
        return {"loss": loss}


@dataclass(frozen=True)
class Distillation:
    """The labels and a teacher's logits; see `distillation_loss`.

    Attributes:
        teacher_logits: (views, images, classes), in the data set's order, at least the views that
            the student is trained on.
        weights: those that the soft term of `loss` takes, by name.
        labels: the hard term.
    """

    reported: ClassVar[tuple[str, ...]] = ("hard_loss", "soft_loss")

    teacher_logits: np.ndarray
    temp: float
    alpha: float
    t_squared: bool = True
    loss: str = "kd"
    weights: dict[str, float] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)

    def targets(self, order: np.ndarray, shown: np.ndarray) -> dict[str, np.ndarray]:
        return {"teacher_logits": self.teacher_logits[shown, order].astype(np.float32)}

    def terms(self, targets: Mapping[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
        loss = distillation_loss(
            targets["labels"],
            targets["teacher_logits"],
            logits,
            temp=self.temp,
            alpha=self.alpha,
            t_squared=self.t_squared,
            loss=self.loss,
            hard_term=self.labels,
            **self.weights,
        )
        return {"loss": loss.total, "hard_loss": loss.hard, "soft_loss": loss.soft}


class DistillationLoss(NamedTuple):
    """Per example, each of shape (batch,): total = (1 - alpha) * hard + alpha * soft."""

    total: Tensor
    hard: Tensor
    soft: Tensor


def distillation_loss(
    labels: Tensor,
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    temp: float,
    alpha: float,
    t_squared: bool = True,
    loss: str = "kd",
    hard_term: Labels | None = None,
    **weights: float,
) -> DistillationLoss:
    """(1 - alpha) * CE(y, p_1(student)) + alpha * T^2 * soft, where `loss` names the soft term; of
    `kd` it is KL(p_T(teacher) || p_T(student)).

    Args:
        labels: (batch,) integers.
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0, used for both networks in the soft term.
        alpha: the weight of the soft term, 0 to 1. At 0 the total is the labels' cross-entropy
            exactly; at 1 no label is used, except in the soft term of `dkd`.
        t_squared: multiply the soft term by T^2, so that the size of its gradient does not depend
            on T (Hinton et al. 2015, section 2).
        loss: a name of the catalogue.
        hard_term: the labels' cross-entropy, with smoothed labels or class weights if wanted.
        weights: those that the soft term takes, by name.
    """
    hard = (hard_term or Labels()).terms({"labels": labels}, student_logits)["loss"]
    soft = LOSSES[loss].term(labels, teacher_logits, student_logits, temp, **weights)
    if t_squared:
        soft = soft * temp**2
    return DistillationLoss((1 - alpha) * hard + alpha * soft, hard, soft)
