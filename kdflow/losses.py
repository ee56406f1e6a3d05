"""The pieces that losses are made of, as pure functions of tensors. Whatever concerns classes is
computed from logits, and every loss has one value per example.

Notation: z are logits, T is `temp`, and p_T = softmax(z / T) over the class axis of each example.
"""

from typing import Any

from kdflow.lazy import lazy_import

ops = lazy_import("keras.ops")

Tensor = Any

SMALLEST_DEVIATION = 1e-7  # of what is standardised; that of Sun et al. 2024's code


def soft_targets(logits: Tensor, temp: float) -> Tensor:
    """The probabilities at temperature T: softmax(z / T) over the last axis.

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


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(p_1(teacher) || p_1(student)) in nats.

    With p and q the two distributions and d = log p - log q, it is the sum of p (d + exp(-d) - 1),
    since the sums of p and q are 1. No term is negative, so small divergences do not drown in
    rounding as the sum of p d does.

    Args:
        teacher_logits, student_logits: (batch, classes).
    """
    log_teacher = ops.log_softmax(teacher_logits, axis=-1)
    log_student = ops.log_softmax(student_logits, axis=-1)
    difference = log_teacher - log_student
    teacher, student = ops.exp(log_teacher), ops.exp(log_student)
    is_small = ops.abs(difference) < 1
    small = ops.where(is_small, difference, 0)  # expm1 of a large one overflows
    terms = ops.where(
        is_small,
        teacher * (small + ops.expm1(-small)),
        teacher * difference + student - teacher,
    )
    return ops.sum(terms, axis=-1)


def standardised(x: Tensor, axis: int) -> Tensor:
    """x with mean 0 and variance 1 along an axis, or 0 where it is the same all along.

    Source: Sun et al. 2024, algorithm 1; their code divides by K - 1 instead of K.
    """
    deviation = ops.sqrt(ops.var(x, axis=axis, keepdims=True) + SMALLEST_DEVIATION**2)
    return (x - ops.mean(x, axis=axis, keepdims=True)) / deviation


def hint_loss(hints: Tensor, regressed: Tensor) -> Tensor:
    """The mean squared error over the maps of each example.

    Args:
        hints: (batch, height, width, channels), what the teacher's hint layer gives.
        regressed: the same shape, what the regressor makes of the student's guided layer.

    Source: Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3, which is half the sum
    of the squares: height * width * channels / 2 times this one. A mean compares between layers.
    """
    return ops.mean(ops.square(regressed - hints), axis=(1, 2, 3))
