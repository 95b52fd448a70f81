"""Images that a paid answer does not hold itself: of its task, then behind its links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from imagen_async.errors import DownloadError, ExpiredUrlError, ImagenError, SaveError
from imagen_async.session import events
from imagen_async.session.collect import fill, has_links, oddities
from imagen_async.session.download import Downloader

if TYPE_CHECKING:
    from multidict import CIMultiDict

    from imagen_async.policy.deadline import Deadline
    from imagen_async.session.config import Config
    from imagen_async.session.record import Record
    from imagen_async.session.transport import Transport
    from imagen_async.storage.stores import ImageStore
    from imagen_async.wire.generation import Generation
    from imagen_async.wire.image import Image


class Delivery:
    """Gets what is paid for and elsewhere.

    Args:
        config: Of the client.
        headers: What every request to its API carries.
        listener: Who is told.
    """

    def __init__(
        self, config: Config, headers: CIMultiDict[str], listener: events.Listener
    ) -> None:
        self.downloader: Downloader = Downloader(config)
        self._config = config
        self._headers = headers
        self._listener = listener

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
            from imagen_async.session.tasks import TaskCollector  # by ``prepare``

            request, collector = generation.request, TaskCollector(self._config, self._headers)
            reply = await collector.collect(transport, task, store, deadline, request)
            if isinstance(reply, ImagenError):
                return _completed(reply, generation, list(generation.images), named)
            result = await fill(
                reply,
                store,
                request,
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
        return await self._download_links(generation, store, transport, deadline, named)

    async def _download_links(
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
            if self._listener.wants:
                self._listener.tell(events.Downloaded(*named, downloaded))

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
