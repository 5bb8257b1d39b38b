"""The layout of ``--help``: groups of commands, options that are flags, and examples."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

PANELS = TRAIN, MODELS, USE, TEAM = ("Train and compare", "Models and promotion", "Use a model", "Team")


def epilog(*examples: str, codes: str = "") -> str:
    """Return the end of a command's help: its exit codes, then examples on lines of their own.

    Typer takes the smallest indentation from all lines but the first, so the title of the examples is never the first line.
    """
    title = "Example:" if len(examples) == 1 else "Examples:"
    return "\n".join([*([codes] if codes else []), "", title, *(f"  {example}" for example in examples)])


class Command(TyperCommand):
    """A command whose help shows flags without a type, since they take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, for the parser and for the help."""
        return _hide_flag_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands, listed panel by panel. In a panel, groups come before single commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, for the parser and for the help."""
        return _hide_flag_types(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of the help."""
        return sorted(super().list_commands(ctx), key=self._position)

    def _position(self, name: str) -> tuple[int, bool]:
        command = self.commands[name]
        panel = getattr(command, "rich_help_panel", None)
        return PANELS.index(panel) if panel in PANELS else -1, not isinstance(command, TyperGroup)


def _hide_flag_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_bool_flag", False):
            param.metavar = ""
    return params
