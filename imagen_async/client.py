"""AsyncImagen: the public client."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from imagen_async.errors import ConfigurationError, ImagenError, InvalidRequestError
from imagen_async.policy.config import Masked
from imagen_async.session.config import Config, new_key
from imagen_async.session.core import Core
from imagen_async.session.loop import running_task
from imagen_async.storage.file_names import slug
from imagen_async.storage.stores import FolderStore, MemoryStore
from imagen_async.wire.request import GenerationRequest, unknown_field

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterable, Iterable, Mapping
    from typing import Self

    from imagen_async.batch.intake import OnUnknown
    from imagen_async.batch.prompts import Requests
    from imagen_async.batch.run import Run
    from imagen_async.batch.settling import Settled
    from imagen_async.batch.shards import Shard
    from imagen_async.policy.config import Limits, Timeouts
    from imagen_async.policy.retry import RetryPolicy
    from imagen_async.policy.settlement import LogName
    from imagen_async.session.events import OnEvent
    from imagen_async.session.stats import Stats
    from imagen_async.session.stream import Stream
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.image import Image
    from imagen_async.wire.request import AspectRatio, ResponseFormat

_FIELDS = ("model", "response_format", "aspect_ratio", "n", "extra")


class AsyncImagen:
    """Generate images over one gateway, concurrently, and never buy one twice in silence.

    It may be made anywhere, and used in one running loop at a time, ``asyncio.run`` twice in a row
    too. Use it as an async context manager, or call ``aclose``.

    Args:
        base_url: Where the gateway answers, ``/v1`` included; else ``IMAGEN_BASE_URL``.
        api_key: The Bearer key; else ``IMAGEN_API_KEY``; sent to the base URL's origin alone.
        model: For requests that name none.
        limits: How much may happen at once.
        retry: How often and how patiently a call is sent again.
        timeouts: How long to wait.
        headers: Sent with every generation request.
        proxy: A proxy's URL.
        trust_env: Whether to read proxies from the environment.
        ssl: A TLS context, instead of the platform's.
        allow_private: Whether links may lead to private addresses.
        idempotency: Whether requests carry the call's key, as ``Idempotency-Key`` and as the ids
            ``X-Client-Request-Id`` and ``x-litellm-call-id``, by which gateways log them.
        key_honoured: Whether the gateway is known to charge once for each ``Idempotency-Key``. What
            may have been charged is then sent again under its key, ``max_sends`` times at most.
        on_event: Called on the loop with each event; several functions may be given.

    Raises:
        ConfigurationError: If something is missing or cannot work; it says what to do.

    Warns:
        UserWarning: If the key would go over plain http to another machine.
    """

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        ssl: ssl.SSLContext | None = None,
        allow_private: bool = False,
        idempotency: bool = True,
        key_honoured: bool = False,
        on_event: OnEvent | None = None,
    ) -> None:
        if api_key is not None:
            api_key = Masked(api_key)  # if a setting is refused, this frame may be shown
        config = Config(
            base_url=base_url,
            api_key=api_key,
            model=model,
            limits=limits,
            retry=retry,
            timeouts=timeouts,
            headers=headers,
            proxy=proxy,
            trust_env=trust_env,
            ssl=ssl,
            allow_private=allow_private,
            idempotency=idempotency,
            key_honoured=key_honoured,
            on_event=on_event,
        )
        self._core = Core(config)

    async def __aenter__(self) -> Self:
        running_task()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        core = getattr(self, "_core", None)  # a traceback may show one that was refused
        return f"AsyncImagen(base_url={core.config.base_url if core else None!r})"

    async def generate(
        self,
        /,
        prompt: str | GenerationRequest,
        *,
        model: str | None = None,
        response_format: ResponseFormat | str | None = None,
        aspect_ratio: AspectRatio | str | None = None,
        n: int | None = None,
        extra: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        **unknown: Never,
    ) -> Generation:
        """Generate images from one prompt; images that come as links stay links.

        Args:
            prompt: What the image shows, or a whole request; then the fields must be None.
            model: Instead of the client's.
            response_format: ``url`` or ``b64_json``.
            aspect_ratio: One of ``1:1``, ``3:4``, ``4:3``, ``9:16``, ``16:9``.
            n: How many images.
            extra: Fields merged last into the body.
            idempotency_key: Instead of a new UUID.
            timeout: Seconds for the whole call, instead of the client's total.
            **unknown: Refused, with the way to send it: fields that only a gateway knows, such as
                ``size``, go into ``extra``.

        Raises:
            ImagenError: How it ended without an image; see its ``charge`` and ``verdict``.
        """
        request = self._request(prompt, unknown, model, response_format, aspect_ratio, n, extra)
        return await self._core.generate(
            request, store=MemoryStore(), idempotency_key=idempotency_key, timeout=timeout
        )

    async def generate_to(
        self,
        /,
        folder: str | os.PathLike[str],
        prompt: str | GenerationRequest,
        *,
        model: str | None = None,
        response_format: ResponseFormat | str | None = None,
        aspect_ratio: AspectRatio | str | None = None,
        n: int | None = None,
        extra: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        **unknown: Never,
    ) -> Generation:
        """Generate images straight to files; each image's ``path`` is set.

        Args:
            folder: Made if it is not there. Names come from the prompt; nothing is overwritten.
            prompt: As in ``generate``.
            model: As in ``generate``.
            response_format: As in ``generate``.
            aspect_ratio: As in ``generate``.
            n: As in ``generate``.
            extra: As in ``generate``.
            idempotency_key: As in ``generate``.
            timeout: As in ``generate``; the downloads count.
            **unknown: As in ``generate``.

        Raises:
            ImagenError: How it ended; images that were saved all the same are on its ``images``.
        """
        request = self._request(prompt, unknown, model, response_format, aspect_ratio, n, extra)
        key = idempotency_key or new_key()
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        return await self._core.generate(
            request,
            store=FolderStore(Path(folder), slug(request.prompt), digest),
            idempotency_key=key,
            timeout=timeout,
            downloads=True,
        )

    def generate_many(
        self,
        prompts: Iterable[str | GenerationRequest] | AsyncIterable[str | GenerationRequest],
        *,
        ordered: bool = False,
        give_up_after: float | None = None,
    ) -> Stream[str | GenerationRequest]:
        """Generate images from many prompts; a context manager over outcomes.

        Each item settles as an Outcome, a value or an error; one failure costs no other item. A
        refused call waits. Leaving the block cancels what is in flight.

        Args:
            prompts: Pulled lazily: never more than concurrency + 2 ahead of the reader.
            ordered: Whether outcomes come in input order.
            give_up_after: Seconds without an answer other than a refusal, after which the rest
                settles with the error; None for 60 if nothing was ever reached, else 1,800.

        Raises:
            ConfigurationError: If it is given a single text, or an option is out of range.
        """
        from imagen_async.session.patience import SharedPatience
        from imagen_async.session.stream import Outcome, Stream

        if isinstance(prompts, str | bytes):
            raise ConfigurationError("Pass a list of prompts: a text would be a prompt a letter.")
        patience = SharedPatience(give_up_after)

        async def work(index: int, item: str | GenerationRequest) -> Outcome:
            request: GenerationRequest | None = None
            try:
                request = self._request(item, {})
                generation = await self._core.generate(
                    request, store=MemoryStore(), waits=True, patience=patience
                )
            except ImagenError as error:
                return Outcome(index, request, error=error)
            return Outcome(index, request, generation)

        return Stream(
            prompts,
            work,
            concurrency=self._core.config.limits.concurrency,
            ordered=ordered,
            dropped=self._core.drop,
        )

    def batch(
        self,
        prompts: Requests,
        *,
        out: str | os.PathLike[str],
        ordered: bool = False,
        on_unknown: OnUnknown = "hold",
        retry_failed: bool = False,
        limit: int | None = None,
        defaults: Mapping[str, Any] | None = None,
        new_options: bool = False,
        price_per_image: float | None = None,
        budget: float | None = None,
        max_failures: int | None = None,
        give_up_after: float | None = None,
        emulator: bool = False,
        gallery: bool = True,
        shard: Shard | None = None,
    ) -> Run:
        """Generate images from many prompts into a folder; a context manager over outcomes.

        It is journalled: a folder that holds a batch is gone on with, what is done is skipped, what
        may have been charged is not sent again. Leaving the block waits for what is in flight.

        Args:
            prompts: Prompts, requests, mappings like a ``.jsonl`` line, or rows of ``read_source``.
            out: The folder; made if it is not there.
            ordered: Whether outcomes come in input order.
            on_unknown: What to do with items of earlier runs that may have been charged: ``hold``
                leaves and lists them, ``resend`` sends each once more, ``drop`` gives them up;
                where links came, only if they are dead.
            retry_failed: Whether items that failed in earlier runs, uncharged, are sent again.
            limit: How many prompts to take; None for all.
            defaults: Fields of a request, such as ``aspect_ratio`` or ``n``, for prompts that do
                not set them; kept in ``run.json`` together with the client's model.
            new_options: Whether to go on with other ones, and buy prompts again.
            price_per_image: In any currency; for the report and the budget.
            budget: The most that may be spent on this folder, in the same currency.
            max_failures: How many items may end without an image before the run stops.
            give_up_after: Seconds without an answer other than a refusal, after which the run
                stops; None for 60 if nothing was ever reached, else 1,800.
            emulator: Whether the endpoint is an emulator of your own, new at every run.
            gallery: Whether to write ``index.html`` at the end.
            shard: Which part of the prompts to take; ``out`` is then the folder over the shards'.
                The budget is divided among them; the client's limits are not.

        Raises:
            ConfigurationError: If an option or the folder cannot be used; it says what to do.
        """
        # Here, for it takes a fifth of the package's import, and most scripts run no batch.
        from imagen_async.batch.intake import RunOptions
        from imagen_async.batch.shard_run import open_run

        options = RunOptions(
            ordered=ordered,
            on_unknown=on_unknown,
            retry_failed=retry_failed,
            limit=limit,
            defaults=defaults or {},
            new_options=new_options,
            price_per_image=price_per_image,
            budget=budget,
            max_failures=max_failures,
            give_up_after=give_up_after,
            emulator=emulator,
            gallery=gallery,
            shard=shard,
        )
        return open_run(self._core, prompts, Path(out), options)

    async def settle(
        self,
        out: str | os.PathLike[str],
        *,
        log: LogName | None = None,
        horizon: float = 900.0,
        dry_run: bool = False,
    ) -> Settled:
        """Ask the gateway's own log what was charged of what a batch has in doubt.

        What was not is sent by the next run, and what was stays listed with the gateway's id.

        Args:
            out: The batch's folder, or the one over its shards'.
            log: The kind of log; None finds out by asking.
            horizon: Seconds after a send from which a missing row means that it was free.
            dry_run: Whether nothing is kept.

        Raises:
            ConfigurationError: If the folder holds no batch of this gateway, or it runs now.
            CallLogError: If the log cannot be read; nothing is settled.
        """
        from imagen_async.batch.settling import settle

        return await settle(self._core, Path(out), log=log, horizon=horizon, dry_run=dry_run)

    async def read(self, image: Image) -> bytes:
        """Return an image's bytes: those it holds, its file's, or those of its link.

        Raises:
            DownloadError: If the link cannot be fetched; no new image is ordered.
            InvalidRequestError: If the image has neither bytes nor file nor link.
            ImagenError: If the file cannot be read.
        """
        running_task()
        if image.data is not None:
            return image.data
        if image.path is not None:
            from imagen_async.storage.save import read_file

            return await read_file(image)
        return (await self._core.fetch(image, MemoryStore())).image.data or b""

    async def save(
        self, image: Image, path: str | os.PathLike[str], *, overwrite: bool = False
    ) -> Path:
        """Write an image's bytes, exactly as they came, durably; return the file's path.

        Args:
            image: Downloaded first if it is a link.
            path: A file, or a folder that exists. It gets the suffix of the bytes if it has none;
                one that disagrees with them is kept, and a UserWarning says so.
            overwrite: Whether an existing file is replaced; otherwise the name is numbered.

        Raises:
            DownloadError: If the link cannot be fetched.
            SaveError: If the file cannot be written.
        """
        from imagen_async.storage.save import write_file

        return await write_file(await self.read(image), Path(path), overwrite=overwrite)

    def stats(self) -> Stats:
        """Return a snapshot of what this client did and is doing."""
        return self._core.stats()

    async def aclose(self) -> None:
        """Refuse new calls, wait for those in flight at most 30 seconds, close all sockets."""
        await self._core.aclose()

    def _request(
        self, prompt: str | GenerationRequest, unknown: Mapping[str, Any], *fields: Any
    ) -> GenerationRequest:
        for name, value in unknown.items():
            raise unknown_field(name, value)
        if isinstance(prompt, GenerationRequest):
            if any(value is not None for value in fields):
                raise InvalidRequestError("Pass a GenerationRequest alone, without further fields.")
            return self._core.resolve(prompt)
        named = dict(zip(_FIELDS, fields, strict=False))
        if named.get("model") is None:
            named["model"] = self._core.config.model
        return GenerationRequest(prompt, **named)
