"""Logit standardisation."""

from kdflow.catalogue.losses.record import Loss
from kdflow.losses import Tensor, kl_divergence, standardised


def standardised_divergence(
    labels: Tensor, teacher_logits: Tensor, student_logits: Tensor, temp: float
) -> Tensor:
    """KL(p_T(teacher) || p_T(student)) in nats, of logits that are standardised over each example's
    classes: the student need not reach the teacher's scale. Two standardised logits are always 1
    and -1, so that there is nothing to learn from those of two classes.

    Sun et al. weigh the hard term by 0.1 and the soft one by 9, a ratio that alpha = 0.989 gives.

    Args:
        labels: not used.
        teacher_logits, student_logits: (batch, classes).
        temp: T > 0, in units of the logits' standard deviation; theirs is 2 or 3.

    Source: Sun et al. 2024, "Logit Standardization in Knowledge Distillation", algorithms 1 and 2.
    """
    return kl_divergence(
        standardised(teacher_logits, -1) / temp, standardised(student_logits, -1) / temp
    )


LS = Loss(
    "ls",
    standardised_divergence,
    "divergence of logits standardised for each example, Sun et al. 2024",
    weights={},
    smallest_classes=lambda _: 3,
)
