"""The settings that both command lines share, `postmortem` and `runs-diff`."""

from __future__ import annotations

import typer


def new_app(name: str, *, no_args_is_help: bool = False) -> typer.Typer:
    """An app without commands. Help and errors are plain text, which needs no rich."""
    return typer.Typer(
        name=name,
        no_args_is_help=no_args_is_help,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
