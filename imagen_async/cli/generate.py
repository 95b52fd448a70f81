"""``imagen-async generate``: prompts from the command line, images on disk."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import attrs

from imagen_async.batch.prompts import read_source
from imagen_async.cli.client import (
    RequestFlags,
    interruptible,
    keep_bytes,
    open_client,
    run_loop,
    shown,
)
from imagen_async.cli.console import (
    logged,
    note,
    raw_result,
    result,
    set_up,
    warn,
    warnings_as_notes,
)
from imagen_async.cli.exits import DONE, INTERRUPTED, error_line, exit_code
from imagen_async.cli.progress import Watch
from imagen_async.cli.words import cut, duration
from imagen_async.errors import (
    Charge,
    ConfigurationError,
    ImagenError,
    InvalidRequestError,
    SaveError,
)
from imagen_async.policy.config import Limits
from imagen_async.session.config import new_key
from imagen_async.session.events import Cancelled, Done, Retrying
from imagen_async.session.stream import Outcome, Stream
from imagen_async.wire.generation import Generation
from imagen_async.wire.image_header import inspect
from imagen_async.wire.request import GenerationRequest
from imagen_async.wire.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imagen_async.client import AsyncImagen
    from imagen_async.session.events import Event
    from imagen_async.wire.image import Image


STDOUT: Final = "-"
"""The output that is standard output."""


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
    set_up(quiet=flags.quiet)
    requests = list(_requests(flags))
    if not requests:
        raise InvalidRequestError("There is no prompt on standard input; write one a line.")
    if flags.output == STDOUT:
        _check_stdout(flags, requests)
        return run_loop(_Run(flags, requests, Path(), to_folder=False).run())
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


def _check_stdout(flags: GenerateFlags, requests: Sequence[GenerationRequest]) -> None:
    """Refuse what standard output cannot take while nothing is paid for."""
    if len(requests) > 1 or (flags.n or 1) > 1:
        raise ConfigurationError("-o - writes one image: give one prompt, and no -n above 1.")
    if flags.as_json:
        raise ConfigurationError("-o - and --json exclude each other: both are standard output.")
    if sys.stdout is None or sys.stdout.isatty():
        raise ConfigurationError(
            "-o - would write an image to the terminal; send it on, as in -o - > fox.png, or name "
            "a file with -o."
        )


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
        self._watch = Watch()
        self._began = time.monotonic()
        # A pipe gets the order of the prompts; a person sees each as it settles.
        self._piped = sys.stdout is None or not sys.stdout.isatty()
        self._code = DONE
        self._cut = self._saving = self._settled = 0
        self._stopped = False
        self._scopes: dict[str, anyio.CancelScope] = {}

    async def run(self) -> int:
        with shown(self._flags, self._look) as self._width, logged(self._flags.verbose):
            return await self._settle()

    def _look(self) -> str:
        doing = self._watch.doing or ("downloading" if self._saving else "")
        total = len(self._requests)
        done = f"{self._settled} of {total} settled" if total > 1 else ""
        words = (duration(time.monotonic() - self._began), done, doing, self._watch.pause)
        return " · ".join(filter(None, words))

    async def _settle(self) -> int:
        limits = Limits()
        async with open_client(self._flags, limits=limits, on_event=self._hear) as imagen:
            stream = Stream(
                self._requests,
                lambda index, request: self._work(imagen, index, request),
                concurrency=limits.concurrency,
                ordered=self._piped,
                dropped=self._show,
            )
            with interruptible(self._stop) as interrupts:
                async with stream as outcomes:
                    async for outcome in outcomes:
                        self._show(await self._saved(imagen, outcome))
            if interrupts.count:
                warn(_interrupted(imagen.stats().dropped + self._cut))
                return INTERRUPTED
        return self._code

    def _stop(self) -> int:
        """Give up what waits to be sent; return how many calls go on, for they may be paid for."""
        self._stopped, flying = True, self._watch.in_flight
        for key, scope in self._scopes.items():
            if key not in flying:
                scope.cancel()
        return len(flying) + self._saving

    def _hear(self, event: Event) -> None:
        """Keep in mind what is waited for, and the links of calls that are given up."""
        self._watch.hear(event)
        if isinstance(event, Done) and self._piped and len(self._requests) > 1:
            self._tell_done(event)
        if isinstance(event, Retrying) and self._stopped:
            self._scopes[event.idempotency_key].cancel()
        elif isinstance(event, Cancelled):
            _keep_links(event.images, self._output)

    def _tell_done(self, event: Done) -> None:
        """Show on a terminal that a prompt is done, if its path goes elsewhere."""
        if self._width is not None:
            note(f"done: {cut(event.request.prompt, self._width - len('done: '))}")

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
                if self._flags.output == STDOUT:
                    images[place] = await _pass_on(imagen, image, first=place == 0)
                else:
                    images[place] = await _save(imagen, image, self._output)
            except ImagenError as error:
                images[place : place + 1] = error.images or (image,)
                error.images = tuple(images)
                return Outcome(outcome.index, outcome.request, error=error)
            except asyncio.CancelledError:
                self._cut += 1
                _keep_links(images, self._output.parent)
                raise
        self._saving = 0
        keep_bytes(images)
        return attrs.evolve(outcome, generation=attrs.evolve(generation, images=tuple(images)))

    def _show(self, outcome: Outcome) -> None:
        generation, error = outcome.generation, outcome.error
        self._settled += 1
        if error is not None:
            warn(f"Error: {self._which(outcome.index)}{error_line(error)}")
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

    def _which(self, index: int) -> str:
        if len(self._requests) == 1:
            return ""
        return f'prompt {index + 1} "{cut(self._requests[index].prompt, 40)}": '

    def _print(self, generation: Generation) -> None:
        for problem in generation.problems:
            note(f"Note: {printable(problem)}")
        for image in generation.images:
            if image.path is not None:
                as_json = self._flags.as_json
                result(_json(generation, image, image.path) if as_json else str(image.path))


async def _pass_on(imagen: AsyncImagen, image: Image, *, first: bool) -> Image:
    """Write the first image to standard output; return the image with what must yet be kept."""
    data = await imagen.read(image)
    held = attrs.evolve(image, data=data, media_type=inspect(data).media_type)
    if not first:  # some gateways send several, asked or not
        return held
    try:
        raw_result(data)
    except OSError as error:
        text = f"Standard output did not take the image ({error.strerror})."
        raise SaveError(text, charge=Charge.YES, images=(held,)) from None
    return attrs.evolve(image, data=None, url=None)


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
        warn(f"Note: the links could not be kept: {printable(str(error.strerror))}.")
    else:
        warn(f"Note: paid for and not here; the links are in {printable(str(path))}.")


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
