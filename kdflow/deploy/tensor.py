"""The input or the output of a file."""

from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """What a file takes or gives.

    Attributes:
        shape: None where any number fits.
        scale, zero_point: of integers: real value = (stored value - zero_point) * scale; None where
            values are stored as they are.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Real values as the file takes them; those out of range become the nearest."""
        if self.scale is None or self.zero_point is None:
            return np.asarray(values, dtype=self.dtype)
        limits = np.iinfo(self.dtype)
        rounded = np.round(values / self.scale) + self.zero_point
        return np.clip(rounded, limits.min, limits.max).astype(self.dtype)

    def real(self, stored: np.ndarray) -> np.ndarray:
        """What the file gives as real values, float32."""
        if self.scale is None or self.zero_point is None:
            return np.asarray(stored, dtype=np.float32)
        return (stored.astype(np.float32) - self.zero_point) * np.float32(self.scale)
