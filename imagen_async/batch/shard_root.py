"""The folder that holds a batch's shards: what its ``run.json`` fixes for all of them."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import TYPE_CHECKING

import attrs

from imagen_async.batch import lists, recovery
from imagen_async.batch.defaults import changes
from imagen_async.batch.mounts import shared_lock_problem
from imagen_async.batch.shards import Shard
from imagen_async.errors import ConfigurationError, ImagenError
from imagen_async.storage import disk
from imagen_async.wire.request import GenerationRequest, request_fields
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from imagen_async.batch.recovery import Terms


@attrs.frozen(kw_only=True)
class ShardTerms:
    """What all shards of a batch share.

    Args:
        shards: How many there are.
        sha256: Of the input's bytes; None if it is no file, and then it cannot be compared.
        prompt_column: Where the input has its prompts.
        endpoint: The base URL, or the word ``emulator``.
        defaults: A request that carries the fields which rows leave out.
    """

    shards: int
    sha256: str | None
    prompt_column: str
    endpoint: str
    defaults: GenerationRequest

    def differences(self, begun: ShardTerms) -> list[str]:
        """Return in words what is not as it was when the batch was begun."""
        told = [
            ("the number of shards", begun.shards, self.shards),
            ("prompt_column", begun.prompt_column, self.prompt_column),
            ("the endpoint", begun.endpoint, self.endpoint),
        ]
        found = [
            f"{name} was {printable(str(was), 300)} and is {printable(str(now), 300)}"
            for name, was, now in told
            if was != now
        ]
        if self.sha256 != begun.sha256 and self.sha256 and begun.sha256:
            found.append("the input is not the file that it was")
        return found + changes(begun.defaults, self.defaults)


def claim_root(root: Path, shard: Shard, terms: Terms, *, begin: bool = True) -> None:
    """Fix what the shards of a batch share, or compare it with what was fixed.

    Args:
        root: The folder over the shards' folders.
        shard: The one that is to run.
        terms: What it is to be run with.
        begin: Whether to make the folder and write ``run.json``; False to compare only.

    Raises:
        ConfigurationError: If the folder holds something else or cannot be used, or if anything
            is not as it was: rows would be bought again.
    """
    path = root / recovery.RUN
    source = shard.source
    try:
        ours = ShardTerms(
            shards=shard.of,
            sha256=None if source is None else _digest(source.path),
            prompt_column="prompt" if source is None else source.prompt_column,
            endpoint=terms.endpoint,
            defaults=terms.defaults,
        )
        if begin:
            _make_folder(root)
            if problem := shared_lock_problem(root):
                raise ConfigurationError(
                    f"{printable(str(root), 300)} cannot hold shards: {printable(problem)}, so two "
                    "machines could buy the same rows; choose a disk that locks for all of them."
                )
        # The names before the note: a shard's folder is made after it, so one seen without it
        # tells that the note was lost.
        names = {entry.name for entry in root.iterdir()} if root.is_dir() else set[str]()
        begun = read_root(root)
        if begun is None:
            _check_free(root, names)
            begun = _write(path, ours) if begin else ours
    except OSError as error:
        raise ConfigurationError(
            f"{printable(str(root), 300)} cannot hold a batch: {disk.reason(error)}; choose "
            "another folder."
        ) from None
    if differences := ours.differences(begun):
        raise ConfigurationError(
            f"This batch was begun otherwise: {'; '.join(differences)}. Its rows would be bought "
            "again; run it as it was begun, or choose another folder."
        )


def read_root(root: Path) -> ShardTerms | None:
    """Return what a folder fixes for its shards; None if it has no ``run.json``.

    Raises:
        ConfigurationError: If it is a plain batch's, or cannot be read.
    """
    path, shown = root / recovery.RUN, printable(str(root), 300)
    try:
        kept = json.loads(path.read_text("utf-8"))
        plain = isinstance(kept, dict) and "shards" not in kept
        terms = (
            None
            if plain
            else ShardTerms(
                shards=Shard(0, of=kept["shards"]).of,
                sha256=kept["input_sha256"],
                prompt_column=str(kept["prompt_column"]),
                endpoint=str(kept["base_url"]),
                defaults=GenerationRequest("-", **kept["options"]),
            )
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ImagenError):
        raise ConfigurationError(f"{shown}/{path.name} cannot be read; restore it.") from None
    if terms is None:
        raise ConfigurationError(
            f"{shown} holds a batch without shards; go on without, or choose another folder."
        )
    return terms


def _check_free(root: Path, names: set[str]) -> None:
    shown = printable(str(root), 300)
    if any(name.startswith("shard-") for name in names):
        raise ConfigurationError(
            f"{shown} holds shards without its {recovery.RUN}, so how they were begun is not "
            "known; restore it, or choose another folder."
        )
    # A hidden file is another worker's, which is just about to give it its name.
    if any(not name.startswith(".") and name != recovery.RUN for name in names):
        raise ConfigurationError(
            f"{shown} is not empty and holds no shards; choose another folder."
        )


def _make_folder(root: Path) -> None:
    made = [path for path in (root, *root.parents) if not path.exists()]
    root.mkdir(parents=True, exist_ok=True)
    for path in made:
        disk.sync_folder(path.parent)


def _write(path: Path, ours: ShardTerms) -> ShardTerms:
    """Write the note if no other worker was first; return the one that counts."""
    options = {**request_fields(ours.defaults)}
    del options["prompt"]
    kept = {
        "version": 2,
        "shards": ours.shards,
        "input_sha256": ours.sha256,
        "prompt_column": ours.prompt_column,
        "base_url": ours.endpoint,
        "options": options,
    }
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        lists.write_whole(part, f"{json.dumps(kept)}\n")
        disk.place(part, [path], replace=False)
        disk.sync_folder(path.parent)
    except FileExistsError:
        pass
    finally:
        disk.remove(part)
    return read_root(path.parent) or ours


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
