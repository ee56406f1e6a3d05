"""What a command of upkeep is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class UpkeepConfig(BaseModel):
    """What every command of upkeep takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    traceback: bool = Field(
        False, description="after an error, show where it was raised too, and not one line alone"
    )


@dataclass(frozen=True)
class Command:
    """A command that is no step: it opens no run.

    Attributes:
        config: its parameters.
        run: does it.
    """

    name: str
    config: type[UpkeepConfig]
    run: Callable[[Any], None]
