"""One image, and how images look in a notebook: MIME bundles made of their bytes."""

from __future__ import annotations

import io
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import attrs

from imagen_async.wire.image_header import RASTERS
from imagen_async.wire.short_repr import link_repr, short_repr

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import PIL.Image

RAW = frozenset({"image/png", "image/jpeg", "image/gif"})
"""Types that every notebook front end shows as such; the others are shown through HTML."""
HEAVY = 1024 * 1024
"""Bytes above which a picture is shown smaller: a notebook file keeps what it shows."""
SHOWN_SIDE = 768
"""Pixels of the longer side of a picture that is shown smaller."""

Bundle = tuple[dict[str, Any], dict[str, Any]]


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

    url: str | None = attrs.field(default=None, repr=link_repr)
    data: bytes | None = attrs.field(default=None, repr=lambda data: f"<{len(data)} bytes>")
    path: Path | None = None
    media_type: str | None = None
    width: int | None = None
    height: int | None = None
    revised_prompt: str | None = None
    __repr__ = short_repr

    def to_pil(self) -> PIL.Image.Image:
        """Return the image decoded by Pillow, from its bytes or its file.

        Raises:
            ImportError: If Pillow is not installed.
            ValueError: If the image is a link; read or save it first.
        """
        try:
            import PIL.Image
        except ImportError:
            raise ImportError("to_pil() needs Pillow: pip install 'imagen-async[cli]'.") from None
        source = self.path if self.data is None else io.BytesIO(self.data)
        if source is None:
            raise ValueError("This image is a link; fetch it with read() or save() first.")
        with PIL.Image.open(source) as opened:
            opened.load()
            return opened

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return filtered(image_bundle(self), include, exclude)


def image_bundle(image: Image) -> Bundle:
    """Return one image's MIME bundle and its metadata."""
    plain = {"text/plain": repr(image)}
    data, media_type = _shown(image)
    if data is None or media_type is None:
        return plain, {}
    if media_type in RAW:
        return {**plain, media_type: data}, {}
    return {**plain, "text/html": _picture(data, media_type, "")}, {}


def grid_bundle(images: Iterable[Image], caption: str, plain: str) -> Bundle:
    """Return several images' MIME bundle: a grid under a caption.

    Args:
        images: Those without bytes and file, and those that are no raster images, are named.
        caption: Any text.
        plain: For front ends that show text alone.
    """
    from html import escape

    cells = []
    for image in images:
        data, media_type = _shown(image)
        if data is None or media_type is None:
            cells.append(f"<em>{escape(_unseen(image))}</em>")
        else:
            cells.append(_picture(data, media_type, caption))
    html = (
        f'<figure style="margin:0"><figcaption>{escape(caption)}</figcaption>'
        '<div style="display:grid;gap:8px;'
        'grid-template-columns:repeat(auto-fill,minmax(220px,1fr))">'
        f"{''.join(cells)}</div></figure>"
    )
    return {"text/plain": plain, "text/html": html}, {}


def thumbnail(image: Image, side: int) -> Image:
    """Return an image whose bytes are few, made by Pillow if it is there; else the image.

    Args:
        image: One that is not here stays as it is.
        side: Pixels of the longer side.
    """
    data, media_type = _shown(image)
    if data is None:
        return image
    small, media_type = _smaller(data, media_type, side)
    return attrs.evolve(image, data=small, path=None, media_type=media_type)


def _unseen(image: Image) -> str:
    if image.data is None and image.path is None:
        return "a link: fetch it with read() or save()"
    return f"{image.path.name if image.path else 'not shown'}: {image.media_type}"


def _shown(image: Image) -> tuple[bytes | None, str | None]:
    if image.media_type not in RASTERS:  # an SVG may run a script, and Pillow a PostScript
        return None, None
    data = image.data
    if data is None and image.path is not None:
        try:
            data = image.path.read_bytes()
        except OSError:
            return None, None
    if data is not None and len(data) > HEAVY:
        return _smaller(data, image.media_type)
    return data, image.media_type


def _smaller(
    data: bytes, media_type: str | None, side: int = SHOWN_SIDE
) -> tuple[bytes, str | None]:
    try:
        from PIL import Image as Pictures
    except ImportError:
        return data, media_type
    try:
        with Pictures.open(io.BytesIO(data)) as picture:
            picture.thumbnail((side, side))
            small = io.BytesIO()
            picture.convert("RGB").save(small, "JPEG", quality=85)
    except (OSError, ValueError, Pictures.DecompressionBombError):
        return data, media_type
    return small.getvalue(), "image/jpeg"


def _picture(data: bytes, media_type: str, label: str) -> str:
    from html import escape

    source = f"data:{media_type};base64,{b64encode(data).decode()}"
    return f'<img alt="{escape(label)}" src="{source}" style="max-width:100%;border-radius:6px">'


def filtered(bundle: Bundle, include: object, exclude: object) -> Bundle:
    """Return the part of a bundle that IPython's display protocol asks for.

    Args:
        bundle: Data and metadata.
        include: MIME types to keep; None for all.
        exclude: MIME types to leave out.
    """
    data, metadata = bundle
    wanted = include if isinstance(include, (set, frozenset, list, tuple)) else data
    unwanted = exclude if isinstance(exclude, (set, frozenset, list, tuple)) else ()
    return {
        kind: value for kind, value in data.items() if kind in wanted and kind not in unwanted
    }, metadata
