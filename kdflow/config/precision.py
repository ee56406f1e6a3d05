"""In which type the steps compute that train or export."""

from typing import Any, Literal

from pydantic import Field

from kdflow.config.base import Config
from kdflow.hardware import Precision, native_precision

AskedPrecision = Literal["auto", "float32", "bfloat16"]


def resolved(asked: AskedPrecision) -> Precision:
    """The type that is asked for, or the one that `auto` stands for on this machine."""
    return native_precision() if asked == "auto" else asked


def other_precision(asked: AskedPrecision) -> Precision:
    """The type that a step does not compute in."""
    return "float32" if resolved(asked) == "bfloat16" else "bfloat16"


class PrecisionConfig(Config):
    """In which type a step computes."""

    precision: AskedPrecision = Field(
        "auto",
        description="what the layers compute in while they train or export: float32, bfloat16 (but"
        " logits, losses, statistics and weights in float32), or auto (bfloat16 where the processor"
        " or GPU multiplies in it natively, else float32)",
        # in which all runs were made before the parameter existed
        json_schema_extra={"neutral": "float32"},
    )

    @property
    def computed_in(self) -> Precision:
        """The type without `auto`."""
        return resolved(self.precision)

    def used(self) -> dict[str, Any]:
        """With the type that `auto` stands for: runs of one key have one precision."""
        return super().used() | {"precision": self.computed_in}
