"""Images that a paid answer does not hold itself: of its task, then behind its links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from imagen_async.errors import (
    Charge,
    DownloadError,
    ExpiredUrlError,
    ImagenError,
    SaveError,
    Verdict,
)
from imagen_async.session import events
from imagen_async.session.collect import collect, oddities
from imagen_async.wire.cost import reported_cost
from imagen_async.wire.generation import Generation
from imagen_async.wire.verdict import error_for, judge_spoiled

if TYPE_CHECKING:
    from imagen_async.policy.deadline import Deadline
    from imagen_async.session.attempt import Reply
    from imagen_async.session.collect import Collected
    from imagen_async.session.download import Downloader
    from imagen_async.session.record import Record
    from imagen_async.session.tasks import TaskCollector
    from imagen_async.session.transport import Transport
    from imagen_async.storage.stores import ImageStore
    from imagen_async.wire.image import Image
    from imagen_async.wire.request import GenerationRequest


@attrs.frozen
class Delivery:
    """Gets what is paid for and elsewhere.

    Args:
        downloader: How links are downloaded.
        collector: How tasks are collected.
        listener: Who is told.
    """

    downloader: Downloader
    collector: TaskCollector
    listener: events.Listener

    async def collect(
        self,
        generation: Generation,
        store: ImageStore,
        transport: Transport,
        deadline: Deadline,
        named: events.Named,
        *,
        record: Record,
        downloads: bool,
    ) -> Generation | ImagenError:
        """Get the images of a paid answer that are elsewhere: of its task, then behind its links.

        Args:
            generation: The answer.
            store: Where images go.
            transport: Of the running loop.
            deadline: When to give up for now.
            named: What events of it begin with.
            record: Told of the links that a task ends in, before the first download.
            downloads: Whether links are downloaded to the store.

        Returns:
            The answer with its images; else the error of what did not come.
        """
        if (task := generation.task) is not None:
            reply = await self.collector.collect(
                transport,
                task,
                open_sink=store.open,
                deadline=deadline,
                request=generation.request.encode(),
            )
            if isinstance(reply, ImagenError):
                return _completed(reply, generation, list(generation.images), named)
            result = await fill(
                reply,
                store,
                generation.request,
                attempts=generation.attempts,
                sends=generation.attempts,
                idempotency_key=generation.idempotency_key,
            )
            if isinstance(result, ImagenError):
                return result
            generation = result
            if downloads and has_links(generation):
                await record.received(generation)
        if not downloads:
            return generation
        return await self.download_links(generation, store, transport, deadline, named)

    async def download_links(
        self,
        generation: Generation,
        store: ImageStore,
        transport: Transport,
        deadline: Deadline,
        named: events.Named,
    ) -> Generation | ImagenError:
        """Download the links of an answer to the store, together.

        Returns:
            The generation with every image downloaded; else one error, of a link that may still
            come if there is one, with every image on it, those that were downloaded and those that
            are still links.
        """
        several = len(generation.images) > 1
        images = list(generation.images)
        problems = list(generation.problems)
        failures: list[ImagenError] = []

        async def download(place: int, image: Image, url: str) -> None:
            try:
                kept = await self.downloader.fetch(
                    transport, url, store, place + 1 if several else None, deadline
                )
            except (DownloadError, SaveError) as error:
                failures.append(error)
                images[place] = attrs.evolve(error.images[0], revised_prompt=image.revised_prompt)
                return
            downloaded = attrs.evolve(kept.image, url=url, revised_prompt=image.revised_prompt)
            images[place] = downloaded
            problems.extend(oddities(kept, place + 1, generation.request))
            if self.listener.wants:
                self.listener.tell(events.Downloaded(*named, downloaded))

        async with anyio.create_task_group() as group:
            for place, image in enumerate(images):
                if image.url is not None and image.media_type is None:
                    group.start_soon(download, place, image, image.url)
        if failures:
            first = min(failures, key=lambda failure: isinstance(failure, ExpiredUrlError))
            return _completed(first, generation, images, named)
        return attrs.evolve(generation, images=tuple(images), problems=tuple(problems))


def _completed(
    error: ImagenError, generation: Generation, images: list[Image], named: events.Named
) -> ImagenError:
    error.images = tuple(images)
    error.request_id = generation.request_id
    error.attempts = generation.attempts
    *_, error.idempotency_key = named
    return error


async def fill(
    reply: Reply,
    store: ImageStore,
    request: GenerationRequest,
    *,
    attempts: int,
    sends: int,
    idempotency_key: str | None,
) -> Generation | ImagenError:
    """Put what an answer brought into the store; return it, or why none of it can be used.

    Args:
        reply: The answer; of a task it has no images yet.
        store: Where images go.
        request: What was asked.
        attempts: How many HTTP exchanges the call began.
        sends: How often its body went out.
        idempotency_key: What it carried.
    """
    answer = reply.answer
    found = await collect(answer.items, store, request)
    if reply.task is None and (found.unwritten or not found.usable):
        error = _useless(reply, found)
        error.attempts, error.sends, error.idempotency_key = attempts, sends, idempotency_key
        return error
    return Generation(
        request,
        found.images,
        answer.created,
        attempts,
        reply.request_id,
        idempotency_key,
        (*answer.problems, *found.problems),
        answer.extras,
        reported_cost(reply.headers, answer.extras),
        reply.task,
    )


def _useless(reply: Reply, found: Collected) -> ImagenError:
    """Return the error of an answer that is paid for and brought no image."""
    if found.unwritten:
        return SaveError(
            f"An image that came cannot be written: {'; '.join(found.unwritten)}.",
            verdict=Verdict.DONE,
            charge=Charge.YES,
            status=reply.status,
            request_id=reply.request_id,
            images=found.images,
        )
    reason = "; ".join((*found.problems, *reply.answer.problems)) or "no image in it"
    spoiled = judge_spoiled(reason, b"", reply.headers, reply.status)
    return error_for(spoiled, images=found.images)


def has_links(generation: Generation) -> bool:
    """Return whether an image is behind a link yet."""
    return any(image.media_type is None for image in generation.images)
