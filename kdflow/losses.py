"""The losses, as pure functions of tensors. Everything on classes is computed from logits, never
from probabilities, and every function returns one value per example.

Notation: z are logits, T is `temp`, and p_T = softmax(z / T) over the class axis of each example.
"""

from typing import Any, NamedTuple

from keras import ops

Tensor = Any


class DistillationLoss(NamedTuple):
    """Per example, each of shape (batch,): total = (1 - alpha) * hard + alpha * soft."""

    total: Tensor
    hard: Tensor
    soft: Tensor


def soft_targets(logits: Tensor, temp: float) -> Tensor:
    """The teacher's probabilities at temperature T: softmax(z / T) over the last axis.

    Args:
        logits: (batch, classes).
        temp: T > 0; 1 is the ordinary softmax, larger is softer.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", eq. 1.
    """
    return ops.softmax(logits / temp, axis=-1)


def cross_entropy(labels: Tensor, logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of integer labels, in nats.

    Args:
        labels: (batch,) integers.
        logits: (batch, classes).
        label_smoothing: the share of each label that is spread evenly over all classes, 0 to 1
            (Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision",
            section 7).
    """
    classes = logits.shape[-1]
    target = ops.one_hot(labels, classes, dtype=logits.dtype)
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing / classes
    return -ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)


def soft_cross_entropy(teacher_logits: Tensor, student_logits: Tensor, temp: float) -> Tensor:
    """CE(p_T(teacher), p_T(student)) in nats. Its gradient is that of the Kullback-Leibler
    divergence: the two differ by the teacher's entropy.

    Args:
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0.
    """
    log_student = ops.log_softmax(student_logits / temp, axis=-1)
    return -ops.sum(soft_targets(teacher_logits, temp) * log_student, axis=-1)


def distillation_loss(
    labels: Tensor,
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    temp: float,
    alpha: float,
    t_squared: bool = True,
) -> DistillationLoss:
    """(1 - alpha) * CE(y, p_1(student)) + alpha * T^2 * CE(p_T(teacher), p_T(student)).

    Args:
        labels: (batch,) integers.
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0, used for both networks in the soft term.
        alpha: the weight of the soft term, 0 to 1. At 0 the total is the labels' cross-entropy
            exactly; at 1 no label is used.
        t_squared: multiply the soft term by T^2, so that the size of its gradient does not depend
            on T (Hinton et al. 2015, section 2).
    """
    hard = cross_entropy(labels, student_logits)
    soft = soft_cross_entropy(teacher_logits, student_logits, temp)
    if t_squared:
        soft = soft * temp**2
    return DistillationLoss((1 - alpha) * hard + alpha * soft, hard, soft)


def hint_loss(hints: Tensor, regressed: Tensor) -> Tensor:
    """The mean squared error over the maps of each example.

    Args:
        hints: (batch, height, width, channels), what the teacher's hint layer gives.
        regressed: the same shape, what the regressor makes of the student's guided layer.

    Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3, which is half the sum
    of the squares: height * width * channels / 2 times this one. A mean compares between layers.
    """
    return ops.mean(ops.square(regressed - hints), axis=(1, 2, 3))
