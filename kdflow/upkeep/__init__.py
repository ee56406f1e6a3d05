"""Commands that look after what steps leave on this machine: `sync` and `clean`."""

from kdflow.upkeep.clean import CLEAN
from kdflow.upkeep.command import Command
from kdflow.upkeep.sync import SYNC

COMMANDS: dict[str, Command] = {command.name: command for command in (SYNC, CLEAN)}
