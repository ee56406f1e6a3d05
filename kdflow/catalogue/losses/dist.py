"""Distillation from a stronger teacher: correlations instead of divergences."""

from kdflow.catalogue.losses.record import Loss, Weight
from kdflow.lazy import lazy_import
from kdflow.losses import Tensor, soft_targets, standardised

ops = lazy_import("keras.ops")


def correlation_distance(
    labels: Tensor,
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

    With two classes the inter-class term has no gradient: the correlation is 1 or -1.

    It says nothing of the scale of the student's logits. Without labels, at alpha = 1, they can
    grow until no gradient is left.

    Args:
        labels: not used.
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


DIST = Loss(
    "dist",
    correlation_distance,
    "correlation over the classes and over the batch, Huang et al. 2022",
    weights={
        "dist_beta": Weight(1, "weight of the correlation over the classes"),
        "dist_gamma": Weight(1, "weight of the correlation over the batch"),
    },
    smallest_classes=lambda weights: 2 if weights["dist_gamma"] else 3,
)
