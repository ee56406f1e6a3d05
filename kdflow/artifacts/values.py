"""Whether numbers are raw logits."""

import numpy as np

from kdflow.errors import UnfitError

ENOUGH_ROWS = 50  # that the raw logits of so many are all from 0 to 1 is no coincidence
WITHIN_0_AND_1 = (
    "whose values are all from 0 to 1, as those of rounded probabilities, sigmoids and similarities"
    " are; use what is computed before these, or multiply similarities by their scale"
)


def are_probabilities(array: np.ndarray) -> bool:
    """Whether the last axis of `array` holds what a softmax gives, and not logits."""
    sums = array.sum(axis=-1, dtype=np.float32)
    return bool((array >= 0).all() and np.allclose(sums, 1, atol=2e-3))


def are_within_0_and_1(array: np.ndarray) -> bool:
    """Whether so many numbers are all from 0 to 1 that they are no raw logits."""
    return bool(array[..., 0].size >= ENOUGH_ROWS and array.min() >= 0 and array.max() <= 1)


def check_values(what: str, array: np.ndarray, where: str) -> None:
    """Refuse values that no student can learn from as logits.

    Args:
        what: is read or written, for the message.
        where: they are.

    Raises:
        UnfitError: one is not finite, or they are probabilities or the like.
    """
    if count := int((~np.isfinite(array)).sum()):
        raise UnfitError(f"{what}: expected finite values in {where}, got {count} that are not")
    if are_probabilities(array):
        raise UnfitError(
            f"{what}: expected raw logits, got probabilities in {where}; values=probabilities reads"
            " a folder of train_probabilities.npy and test_probabilities.npy"
        )
    if are_within_0_and_1(array):
        raise UnfitError(f"{what}: expected raw logits, got {where} {WITHIN_0_AND_1}")
