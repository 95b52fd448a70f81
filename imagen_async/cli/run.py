"""One run of the command line: its exceptions become a line and an exit code."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

import click

from imagen_async.cli.commands import imagen_async
from imagen_async.cli.console import note, prepare
from imagen_async.cli.exits import INTERRUPTED, error_line, exit_code
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit code; no exception and no traceback gets out."""
    prepare()
    try:
        # Standalone, click would end an interrupted program with 1 and a traceback for our errors.
        code = imagen_async.main(arguments, prog_name="imagen-async", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        note(error.format_message())
        return error.exit_code
    except click.ClickException as error:
        note(f"Error: {printable(error.format_message())}{_see_help(error)}")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        note("Interrupted.")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence
        if os.environ.get("IMAGEN_DEBUG"):
            traceback.print_exc()
        note(f"Error: {error_line(error)}")
        return exit_code(error)
    return code if isinstance(code, int) else 0


def _see_help(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return "" if context is None else f" See '{context.command_path} --help'."
