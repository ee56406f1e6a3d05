"""Which images an epoch shows, in which order and view: a pure function of (seed, epoch)."""

import numpy as np

from kdflow import views
from kdflow.config.views import Views
from kdflow.dataset import Images
from kdflow.training.objective import Objective


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
    train: Images,
    objective: Objective,
    among: Views,
    seed: int,
    epoch: int,
    part: slice = slice(None),
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What the network sees in an epoch, in order: the images, each in its view, and the targets,
    which are their `labels` and what the objective needs of just those views.

    Args:
        part: which images of the epoch; only these are held in memory.
    """
    order, shown = epoch_order(train.indices, seed, epoch, among.count)
    order, shown = order[part], shown[part]
    if among.count > 1:
        images = views.apply(train.images, shown, order, views.VIEW_SETS[among.view_set])
    else:
        images = train.images[order]
    return images, {"labels": train.labels[order], **objective.targets(order, shown)}
