"""The losses, as pure functions of tensors. What concerns classes is computed from logits, no
logarithm is taken of a probability, and every function returns one value per example.

Notation: z are logits, T is `temp`, and p_T = softmax(z / T) over the class axis of each example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

Tensor = Any

FAR_BELOW = 1e9  # taken from a logit, leaves its class a probability of exactly 0
SMALLEST_DEVIATION = 1e-7  # of what is standardised; that of Sun et al. 2024's code


class DistillationLoss(NamedTuple):
    """Per example, each of shape (batch,): total = (1 - alpha) * hard + alpha * soft."""

    total: Tensor
    hard: Tensor
    soft: Tensor


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


def soft_cross_entropy(teacher_logits: Tensor, student_logits: Tensor, temp: float) -> Tensor:
    """CE(p_T(teacher), p_T(student)) in nats. Its gradient is that of the Kullback-Leibler
    divergence: the two differ by the teacher's entropy.

    Args:
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0.
    """
    log_student = ops.log_softmax(student_logits / temp, axis=-1)
    return -ops.sum(soft_targets(teacher_logits, temp) * log_student, axis=-1)


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(p_1(teacher) || p_1(student)) in nats.

    Args:
        teacher_logits, student_logits: (batch, classes).
    """
    log_teacher = ops.log_softmax(teacher_logits, axis=-1)
    log_student = ops.log_softmax(student_logits, axis=-1)
    return ops.sum(ops.exp(log_teacher) * (log_teacher - log_student), axis=-1)


def decoupled_divergence(
    labels: Tensor,
    teacher_logits: Tensor,
    student_logits: Tensor,
    temp: float,
    *,
    dkd_alpha: float,
    dkd_beta: float,
) -> Tensor:
    """dkd_alpha * TCKD + dkd_beta * NCKD in nats: how far the student's p_T is from the teacher's
    in the probability of the label's class as against all others, and in how the others share the
    rest. With dkd_alpha = 1 and dkd_beta = the teacher's p_T of all other classes, this is
    KL(p_T(teacher) || p_T(student)).

    It needs the labels, whatever the weight of the hard term. Zhao et al. weigh hard and soft term
    alike, which alpha = 0.5 does, and let the soft term grow over the first 20 epochs, which is
    left out here.

    Args:
        labels: (batch,) integers.
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0.
        dkd_alpha: the weight of the target class, TCKD.
        dkd_beta: the weight of the other classes, NCKD.

    Source: Zhao et al. 2022, "Decoupled Knowledge Distillation", eq. 5 to 7.
    """
    target = ops.one_hot(labels, student_logits.shape[-1], dtype=student_logits.dtype)

    def others(logits: Tensor) -> Tensor:
        return logits / temp - FAR_BELOW * target

    def target_or_not(logits: Tensor) -> Tensor:
        of_target = ops.sum(target * logits / temp, axis=-1)
        return ops.stack([of_target, ops.logsumexp(others(logits), axis=-1)], axis=-1)

    tckd = kl_divergence(target_or_not(teacher_logits), target_or_not(student_logits))
    nckd = kl_divergence(others(teacher_logits), others(student_logits))
    return dkd_alpha * tckd + dkd_beta * nckd


def standardised(x: Tensor, axis: int) -> Tensor:
    """x with mean 0 and variance 1 along an axis, or 0 where it is the same all along.

    Source: Sun et al. 2024, algorithm 1; their code divides by K - 1 instead of K.
    """
    deviation = ops.sqrt(ops.var(x, axis=axis, keepdims=True) + SMALLEST_DEVIATION**2)
    return (x - ops.mean(x, axis=axis, keepdims=True)) / deviation


def correlation_distance(
    teacher_logits: Tensor,
    student_logits: Tensor,
    temp: float,
    *,
    dist_beta: float,
    dist_gamma: float,
) -> Tensor:
    """dist_beta * inter + dist_gamma * intra, where inter is 1 - the correlation of an example's
    p_T of the student with that of the teacher, over the classes, and intra is 1 - the correlation
    of a class's p_T over the examples, averaged over the classes. Correlations are Pearson's.

    The intra-class term is one number for the batch, which every example gets, so that the mean
    over the batch is the paper's loss. A class whose probability is the same for all examples, as
    in a batch of one, correlates with nothing and counts as 1.

    It says nothing of the scale of the student's logits. Without labels, at alpha = 1, they can
    grow until no gradient is left.

    Args:
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0.
        dist_beta: the weight of the inter-class term.
        dist_gamma: the weight of the intra-class term.

    Source: Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", and the code
    published with it, where T and both weights are 1 and hard and soft term weigh alike, which
    alpha = 0.5 does.
    """
    teacher, student = soft_targets(teacher_logits, temp), soft_targets(student_logits, temp)

    def correlation(axis: int) -> Tensor:
        return ops.mean(standardised(teacher, axis) * standardised(student, axis), axis=axis)

    return dist_beta * (1 - correlation(-1)) + dist_gamma * (1 - ops.mean(correlation(0)))


def standardised_divergence(teacher_logits: Tensor, student_logits: Tensor, temp: float) -> Tensor:
    """KL(p_T(teacher) || p_T(student)) in nats, of logits that are standardised over each example's
    classes: the student need not reach the teacher's scale.

    Sun et al. weigh the hard term by 0.1 and the soft one by 9, a ratio that alpha = 0.989 gives.

    Args:
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0, in units of the logits' standard deviation; theirs is 2 or 3.

    Source: Sun et al. 2024, "Logit Standardization in Knowledge Distillation", algorithms 1 and 2.
    """
    return kl_divergence(
        standardised(teacher_logits, -1) / temp, standardised(student_logits, -1) / temp
    )


# The soft terms, called with (labels, teacher_logits, student_logits, temp, **weights).
SOFT_TERMS: dict[str, Callable[..., Tensor]] = {
    "kd": lambda labels, *logits_and_temp: soft_cross_entropy(*logits_and_temp),
    "dkd": decoupled_divergence,
    "dist": lambda labels, *args, **weights: correlation_distance(*args, **weights),
    "ls": lambda labels, *logits_and_temp: standardised_divergence(*logits_and_temp),
}


def distillation_loss(
    labels: Tensor,
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    temp: float,
    alpha: float,
    t_squared: bool = True,
    loss: str = "kd",
    **weights: float,
) -> DistillationLoss:
    """(1 - alpha) * CE(y, p_1(student)) + alpha * T^2 * soft, where `loss` says what soft is;
    in `kd` it is CE(p_T(teacher), p_T(student)).

    Args:
        labels: (batch,) integers.
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0, used for both networks in the soft term.
        alpha: the weight of the soft term, 0 to 1. At 0 the total is the labels' cross-entropy
            exactly; at 1 no label is used, except in the soft term of `dkd`.
        t_squared: multiply the soft term by T^2, so that the size of its gradient does not depend
            on T (Hinton et al. 2015, section 2).
        loss: one of `SOFT_TERMS`.
        weights: those that the soft term takes, by name.
    """
    hard = cross_entropy(labels, student_logits)
    soft = SOFT_TERMS[loss](labels, teacher_logits, student_logits, temp, **weights)
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
