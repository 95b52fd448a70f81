"""``imagen-async generate``: prompts from the command line, images on disk."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import attrs

from imagen_async.batch.prompts import read_source
from imagen_async.cli.client import (
    RequestFlags,
    interruptible,
    keep_bytes,
    open_client,
    run_loop,
)
from imagen_async.cli.console import note, result, warnings_as_notes
from imagen_async.cli.exits import DONE, INTERRUPTED, error_line, exit_code
from imagen_async.errors import ConfigurationError, ImagenError, InvalidRequestError
from imagen_async.policy.config import Limits
from imagen_async.session.config import new_key
from imagen_async.session.events import Cancelled, Done, Failed, Retrying, Sent
from imagen_async.session.stream import Outcome, Stream
from imagen_async.wire.generation import Generation, Image
from imagen_async.wire.image_header import inspect
from imagen_async.wire.request import GenerationRequest
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagen_async.client import AsyncImagen
    from imagen_async.session.events import Event


@attrs.frozen(kw_only=True)
class GenerateFlags(RequestFlags):
    """The flags of ``generate``."""

    prompts: tuple[str, ...]
    output: str = "."


def generate(flags: GenerateFlags) -> int:
    """Generate images from each prompt and return the exit code: that of the first failure.

    Raises:
        ImagenError: If something is wrong before anything is sent.
    """
    requests = list(_requests(flags))
    if not requests:
        raise InvalidRequestError("There is no prompt on standard input; write one a line.")
    output = Path(flags.output)
    try:
        to_folder = _is_folder(flags.output, several=len(requests) > 1)
        _check_writable(output if to_folder else output.parent)
    except OSError as error:
        shown = printable(flags.output, 300)
        raise ConfigurationError(f"-o {shown} cannot be used: {error.strerror}.") from None
    return run_loop(_Run(flags, requests, output, to_folder=to_folder).run())


def _requests(flags: GenerateFlags) -> Iterator[GenerationRequest]:
    """Yield all requests before any is sent: a wrong one then costs nothing."""
    for prompt in flags.prompts:
        if prompt != "-":
            yield GenerationRequest(prompt, **flags.fields)
            continue
        for row in read_source("-"):
            if row.request is None:
                raise row.error or InvalidRequestError(f"line {row.line} cannot be read.")
            yield attrs.evolve(row.request, **flags.fields)


def _is_folder(output: str, *, several: bool) -> bool:
    if several and Path(output).is_file():
        raise ConfigurationError(
            f"-o {printable(output)} is a file, and several prompts need a folder."
        )
    return several or output.endswith(("/", os.sep)) or Path(output).is_dir()


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot take a file while nothing is paid for."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"Nothing can be written to {printable(str(nearest))}; choose another place with -o."
        )


class _Run:
    """One run of ``generate``: settles each prompt and remembers the first failure."""

    def __init__(
        self,
        flags: GenerateFlags,
        requests: Sequence[GenerationRequest],
        output: Path,
        *,
        to_folder: bool,
    ) -> None:
        self._flags = flags
        self._requests = requests
        self._output = output
        self._to_folder = to_folder
        self._code = DONE
        self._cut = self._saving = 0
        self._stopped = False
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._flying: set[str] = set()

    async def run(self) -> int:
        limits = Limits()
        async with open_client(self._flags, limits=limits, on_event=self._hear) as imagen:
            stream = Stream(
                self._requests,
                lambda index, request: self._work(imagen, index, request),
                concurrency=limits.concurrency,
                ordered=True,
                dropped=self._show,
            )
            with interruptible(self._stop, note) as interrupts:
                async with stream as outcomes:
                    async for outcome in outcomes:
                        self._show(await self._saved(imagen, outcome))
            if interrupts.count:
                note(_interrupted(imagen.stats().dropped + self._cut))
                return INTERRUPTED
        return self._code

    def _stop(self) -> int:
        """Give up what waits to be sent; return how many calls go on, for they may be paid for."""
        self._stopped = True
        for key, scope in self._scopes.items():
            if key not in self._flying:
                scope.cancel()
        return len(self._flying) + self._saving

    def _hear(self, event: Event) -> None:
        """Keep in mind which calls are in flight, and the links of those that are given up."""
        key = event.idempotency_key
        if isinstance(event, Sent):
            self._flying.add(key)
        elif isinstance(event, Retrying | Done | Failed | Cancelled):
            self._flying.discard(key)
        if isinstance(event, Retrying) and self._stopped:
            self._scopes[key].cancel()
        elif isinstance(event, Cancelled):
            _keep_links(event.images, self._output)

    async def _work(
        self, imagen: AsyncImagen, index: int, request: GenerationRequest
    ) -> Outcome | None:
        if self._stopped:
            return None
        key = new_key()
        try:
            with anyio.CancelScope() as self._scopes[key]:
                if self._to_folder:
                    generation = await imagen.generate_to(
                        self._output, request, idempotency_key=key
                    )
                else:
                    generation = await imagen.generate(request, idempotency_key=key)
                return Outcome(index, request, generation)
        except ImagenError as error:
            return Outcome(index, request, error=error)
        finally:
            del self._scopes[key]
        return None

    async def _saved(self, imagen: AsyncImagen, outcome: Outcome) -> Outcome:
        """Return an outcome whose images lie on the disk."""
        generation = outcome.generation
        if generation is None or self._to_folder:
            return outcome
        images, self._saving = list(generation.images), 1
        for place, image in enumerate(images):
            try:
                images[place] = await _save(imagen, image, self._output)
            except ImagenError as error:
                images[place : place + 1] = error.images or (image,)
                error.images = tuple(images)
                return Outcome(outcome.index, outcome.request, error=error)
            except asyncio.CancelledError:
                self._cut += 1
                _keep_links(images, self._output.parent)
                raise
        return attrs.evolve(outcome, generation=attrs.evolve(generation, images=tuple(images)))

    def _show(self, outcome: Outcome) -> None:
        generation, error = outcome.generation, outcome.error
        if error is not None:
            which = f"prompt {outcome.index + 1}: " if len(self._requests) > 1 else ""
            note(f"Error: {which}{error_line(error)}")
            self._code = self._code or exit_code(error)
            _keep_links(error.images, self._output if self._to_folder else self._output.parent)
            keep_bytes(error.images)
            generation = Generation(
                self._requests[outcome.index],
                error.images,
                attempts=error.attempts,
                request_id=error.request_id,
            )
        if generation is not None:
            self._print(generation)

    def _print(self, generation: Generation) -> None:
        for problem in generation.problems:
            note(f"Note: {printable(problem)}")
        for image in generation.images:
            if image.path is not None:
                as_json = self._flags.as_json
                result(_json(generation, image, image.path) if as_json else str(image.path))


async def _save(imagen: AsyncImagen, image: Image, path: Path) -> Image:
    data = await imagen.read(image)
    media = inspect(data)
    with warnings_as_notes():
        saved = await imagen.save(attrs.evolve(image, data=data), path)
    return attrs.evolve(
        image,
        data=None,
        path=saved,
        media_type=media.media_type,
        width=media.width,
        height=media.height,
    )


def _keep_links(images: Sequence[Image], folder: Path) -> None:
    """Write the links of images that are paid for and not here to a file that only we can read."""
    missing = [image for image in images if image.path is None and image.data is None]
    links = [image.url for image in missing if image.url is not None]
    if not links:
        return
    path = folder / f"links-{secrets.token_hex(6)}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The links may be signed: they are for the one who paid, and not for a terminal's log.
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.writelines(f"{printable(link)}\n" for link in links)
    except OSError as error:
        note(f"Note: the links could not be kept: {printable(str(error.strerror))}.")
    else:
        note(f"Note: paid for and not here; the links are in {printable(str(path))}.")


def _json(generation: Generation, image: Image, path: Path) -> str:
    request = generation.request
    return json.dumps(
        {
            "path": str(path),
            "prompt": request.prompt,
            "model": request.model,
            "aspect_ratio": request.aspect_ratio,
            "width": image.width,
            "height": image.height,
            "media_type": image.media_type,
            "bytes": path.stat().st_size,
            "revised_prompt": image.revised_prompt,
            "created": generation.created,
            "attempts": generation.attempts,
            "request_id": generation.request_id,
        }
    )


def _interrupted(dropped: int) -> str:
    if dropped == 0:
        return "Interrupted; nothing that was cancelled can have been charged."
    calls = "call" if dropped == 1 else "calls"
    return f"Interrupted; {dropped} {calls} in flight may have been charged, and brought no image."
