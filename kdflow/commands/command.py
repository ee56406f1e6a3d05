"""What a command is: like a step on the command line, but it opens no run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class CommandConfig(BaseModel):
    """What every command takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    traceback: bool = Field(
        False, description="after an error, show where it was raised too, and not one line alone"
    )


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        config: its parameters.
        run: does it.
    """

    name: str
    config: type[CommandConfig]
    run: Callable[[Any], None]
