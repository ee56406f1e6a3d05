"""Decoupled knowledge distillation."""

from kdflow.catalogue.losses.record import Loss, Weight
from kdflow.lazy import lazy_import
from kdflow.losses import Tensor, kl_divergence

ops = lazy_import("keras.ops")

IMPOSSIBLE = -1e30  # as a logit: a class with a probability of exactly 0


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

    def others(scaled: Tensor) -> Tensor:
        return ops.where(target > 0, IMPOSSIBLE, scaled)

    def target_or_not(scaled: Tensor) -> Tensor:
        of_target = ops.sum(target * scaled, axis=-1)
        return ops.stack([of_target, ops.logsumexp(others(scaled), axis=-1)], axis=-1)

    teacher, student = teacher_logits / temp, student_logits / temp
    tckd = kl_divergence(target_or_not(teacher), target_or_not(student))
    nckd = kl_divergence(others(teacher), others(student))
    return dkd_alpha * tckd + dkd_beta * nckd


DKD = Loss(
    "dkd",
    decoupled_divergence,
    "target class and other classes apart, Zhao et al. 2022",
    weights={
        "dkd_alpha": Weight(1, "weight of the target class against all others"),
        "dkd_beta": Weight(8, "weight of the other classes among themselves"),
    },
)
