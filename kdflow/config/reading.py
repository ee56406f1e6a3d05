"""What the steps take that may read a model, or logits, that kdflow did not make."""

from typing import Literal, NamedTuple

from pydantic import Field

from kdflow.adapt import PixelRange
from kdflow.config.base import HOW_TO_RUN, Config, rarely_used


class Reading(NamedTuple):
    """How a user's own model or folder is read.

    Attributes:
        pixels: the pixel values that a user's own model expects.
        values: what a user's own folder holds.
        allow_weak: whether it may be no better than chance.
    """

    pixels: PixelRange = "0..255"
    values: Literal["logits", "probabilities"] = "logits"
    allow_weak: bool = False


class OwnModelConfig(Config):
    """How a user's own model is read."""

    pixels: PixelRange = Field(
        "0..255",
        description="range of pixels that your own model expects: 0..255, 0..1, -1..1 or imagenet"
        " (0..1, then normalised by ImageNet's mean and standard deviation per channel)",
        json_schema_extra=rarely_used("0..255"),
    )
    allow_weak_teacher: bool = Field(
        False,
        description="accept a model whose accuracy is no better than chance, or is better with"
        " other pixels",
        json_schema_extra=HOW_TO_RUN,
    )

    @property
    def reading(self) -> Reading:
        """How the model is read."""
        return Reading(self.pixels, allow_weak=self.allow_weak_teacher)


class OwnTeacherConfig(OwnModelConfig):
    """How a user's own teacher is read, a model or a folder."""

    values: Literal["logits", "probabilities"] = Field(
        "logits",
        description="what your own folder of teacher outputs contains: logits, or probabilities"
        " (their logarithm is used)",
        json_schema_extra=rarely_used("logits"),
    )

    @property
    def reading(self) -> Reading:
        """How the teacher is read."""
        return Reading(self.pixels, self.values, self.allow_weak_teacher)
