"""The result: images and what came with them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.errors import ConfigurationError, InvalidRequestError
from imagen_async.wire import notebook

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import PIL.Image

    from imagen_async.wire.cost import Cost
    from imagen_async.wire.request import GenerationRequest
    from imagen_async.wire.task import Task


@attrs.frozen
class Image:
    """One image: a link, its bytes, or a file, and what its own bytes say of it.

    Args:
        url: The link the gateway gave; treat it as a secret, it may be signed.
        data: The image's bytes, exactly as the server sent them.
        path: The file that holds them.
        media_type: Such as ``image/png``, told by the bytes; None while they were not fetched.
        width: Pixels, told by the bytes.
        height: Pixels, told by the bytes.
        revised_prompt: The prompt as the gateway changed it.
    """

    url: str | None = attrs.field(default=None, repr=lambda url: "None" if url is None else "'…'")
    data: bytes | None = attrs.field(
        default=None, repr=lambda data: "None" if data is None else f"<{len(data)} bytes>"
    )
    path: Path | None = None
    media_type: str | None = None
    width: int | None = None
    height: int | None = None
    revised_prompt: str | None = None

    def to_pil(self) -> PIL.Image.Image:
        """Return the image decoded by Pillow, from its bytes or its file.

        Raises:
            ConfigurationError: If Pillow is not installed.
            InvalidRequestError: If the image is a link; read or save it first.
        """
        try:
            import PIL.Image
        except ImportError:
            raise ConfigurationError(
                "to_pil() needs Pillow: pip install 'imagen-async[cli]'."
            ) from None
        source = self.path if self.data is None else io.BytesIO(self.data)
        if source is None:
            raise InvalidRequestError("This image is a link; fetch it with read() or save() first.")
        with PIL.Image.open(source) as opened:
            opened.load()
            return opened

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return notebook.filtered(notebook.image_bundle(self), include, exclude)


@attrs.frozen
class Generation:
    """What one call brought.

    Args:
        request: What was asked.
        images: Every image that came, whatever ``n`` asked.
        created: The gateway's time of creation, Unix seconds.
        attempts: How many HTTP exchanges the call began.
        request_id: The gateway's id of the answer.
        idempotency_key: The key that every attempt carried.
        problems: Notes on what is odd: a wrong size, an item without an image.
        extras: What else the answer held, such as ``usage``.
        cost: What the gateway says that it cost; None if it does not say.
        task: Where the images are to be collected; None once they came.
    """

    request: GenerationRequest
    images: tuple[Image, ...]
    created: int | None = None
    attempts: int = 1
    request_id: str | None = None
    idempotency_key: str | None = None
    problems: tuple[str, ...] = ()
    extras: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    cost: Cost | None = None
    task: Task | None = attrs.field(default=None, repr=False)

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = notebook.grid_bundle(self.images, self.request.prompt, repr(self))
        return notebook.filtered(bundle, include, exclude)
