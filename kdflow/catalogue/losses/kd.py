"""The soft term of Hinton et al. 2015."""

from kdflow.catalogue.losses.record import Loss
from kdflow.losses import Tensor, kl_divergence


def divergence(
    labels: Tensor, teacher_logits: Tensor, student_logits: Tensor, temp: float
) -> Tensor:
    """KL(p_T(teacher) || p_T(student)) in nats: 0 where the student equals its teacher.

    Its gradient is that of the cross-entropy CE(p_T(teacher), p_T(student)), which the paper
    writes: the two differ by the teacher's entropy.

    Args:
        labels: not used.
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0.

    Source: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
    section 2.
    """
    return kl_divergence(teacher_logits / temp, student_logits / temp)


KD = Loss("kd", divergence, "divergence of the softened classes, Hinton et al. 2015", weights={})
