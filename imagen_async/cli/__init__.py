"""The command line: ``imagen-async``.

``commands`` says what can be asked and imports nothing but click; the module named like a
command does its work and is imported when it is run, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; ``sys.argv`` if None.

    Returns:
        The exit code, as ``imagen_async.cli.exits`` lists them.
    """
    try:
        from imagen_async.cli.run import run
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print(  # noqa: T201 - a program's own words
            "Error: the command line needs click: pip install 'imagen-async[cli]'", file=sys.stderr
        )
        return 1
    return run(arguments)
