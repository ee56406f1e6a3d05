"""Flags made from a config's fields, and errors of one line."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from pydantic import BaseModel

from kdflow.config.base import canonical

FLAG, NEGATIVE = re.compile(r"--\w+"), re.compile(r"-[\d.]")


class OneLineParser(argparse.ArgumentParser):
    """Errors are one line, which names the sub-command that does not know the argument."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        given = _with_values_attached(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(given, namespace)
        if unknown:  # a sub-command's parser would leave them to the one above
            flag = unknown[0].partition("=")[0].replace("-", "_").replace("__", "--", 1)
            near = difflib.get_close_matches(flag, self._option_string_actions, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _with_values_attached(words: Sequence[str]) -> list[str]:
    """`--pixels -1..1` as `--pixels=-1..1`: argparse would take such a value for a flag."""
    attached: list[str] = []
    for word in words:
        if attached and FLAG.fullmatch(attached[-1]) and NEGATIVE.match(word):
            attached[-1] += f"={word}"
        else:
            attached.append(word)
    return attached


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    config: type[BaseModel],
    *,
    depends_on: str | None,
    without: tuple[str, ...] = (),
) -> None:
    """A flag for each field of `config`; one that is not given leaves no value.

    Args:
        depends_on: what the values of fields without a default depend on, in words; None if they
            have to be given.
        without: fields that get no flag.
    """
    for field, info in config.model_fields.items():
        if field not in without:
            default = "required"
            if not info.is_required():
                default = f"default: {canonical(info.default)}"
            elif depends_on:
                default = f"default: depends on {depends_on}"
            parser.add_argument(
                f"--{field}",
                default=argparse.SUPPRESS,
                metavar="true|false" if info.annotation is bool else "VALUE",
                help=f"{info.description} ({default})".replace("%", "%%"),
            )
