"""``imagen-async gallery``: the page over a batch's folder."""

from __future__ import annotations

from pathlib import Path

from imagen_async.batch.gallery import write_gallery
from imagen_async.cli.console import result
from imagen_async.cli.exits import DONE


def gallery(folder: str) -> int:
    """Write a gallery and print its path.

    Raises:
        ConfigurationError: If the folder holds no batch.
    """
    result(str(write_gallery(Path(folder), ended=False)))
    return DONE
