"""Commands that open no run: `predict`, `demo`; `sync` and `clean`, for what steps leave on a
machine."""

from kdflow.commands.clean import CLEAN
from kdflow.commands.command import Command
from kdflow.commands.demo import DEMO
from kdflow.commands.predict import PREDICT
from kdflow.commands.sync import SYNC

COMMANDS: dict[str, Command] = {command.name: command for command in (PREDICT, DEMO, SYNC, CLEAN)}
