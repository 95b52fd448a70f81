"""How images look in a module."""

import io
import warnings
from pathlib import Path

import pytest
from PIL import Image as Pictures

from imagen_async import Generation, GenerationRequest, Image
from imagen_async.wire import image as module


def picture(kind: str = "PNG", side: int = 8, **options: object) -> bytes:
    data = io.BytesIO()
    Pictures.effect_noise((side, side), 90).convert("RGB").save(data, kind, **options)
    return data.getvalue()


def test_png_is_shown_as_such() -> None:
    """A PNG in memory is shown by its own bytes, and as text where there are no pictures."""
    data = picture()

    bundle, _ = Image(data=data, media_type="image/png")._repr_mimebundle_()

    assert bundle["image/png"] == data
    assert "bytes>" in bundle["text/plain"]


def test_webp_is_shown_through_html() -> None:
    """A type that some front ends do not know is shown as HTML with its bytes inside."""
    bundle, _ = Image(data=picture("WEBP"), media_type="image/webp")._repr_mimebundle_()

    assert bundle["text/html"].startswith('<img alt="" src="data:image/webp;base64,')


def test_file_is_read_when_shown(tmp_path: Path) -> None:
    """An image with a path reads its file when it is shown, and tells of a lost file as text."""
    path = tmp_path / "a.png"
    image = Image(path=path, media_type="image/png")

    assert set(image._repr_mimebundle_()[0]) == {"text/plain"}
    path.write_bytes(picture())
    assert image._repr_mimebundle_()[0]["image/png"] == path.read_bytes()


def test_heavy_picture_is_shown_smaller() -> None:
    """A picture over a mebibyte is shown smaller, since the notebook keeps what it shows."""
    data = picture(side=1024, compress_level=0)

    bundle, _ = Image(data=data, media_type="image/png")._repr_mimebundle_()

    assert len(data) > module.HEAVY
    with Pictures.open(io.BytesIO(bundle["image/jpeg"])) as shown:
        assert max(shown.size) == module.SHOWN_SIDE


def test_heavy_bytes_that_are_no_picture_stay() -> None:
    """Heavy bytes that Pillow cannot read are shown as they are."""
    data = b"\0" * (module.HEAVY + 1)

    assert Image(data=data, media_type="image/png")._repr_mimebundle_()[0]["image/png"] == data


def test_without_pillow_heavy_pictures_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Pillow a heavy picture is shown whole."""
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    data = b"\x89PNG" + b"\0" * module.HEAVY

    assert Image(data=data, media_type="image/png")._repr_mimebundle_()[0]["image/png"] == data


def test_generation_is_a_grid_with_its_prompt_escaped() -> None:
    """A generation shows its images in a grid under its prompt, and hides its links."""
    request = GenerationRequest("<script>alert(1)</script>")
    images = (
        Image(data=picture(), media_type="image/png"),
        Image(url="https://x.example/a.png?sig=SECRET"),
    )

    bundle, _ = Generation(request, images)._repr_mimebundle_()

    assert bundle["text/html"].count("<img") == 1
    assert "<script>" not in bundle["text/html"]
    assert "SECRET" not in str(bundle)


@pytest.mark.parametrize("kind", ["image/svg+xml", "application/pdf", "application/postscript"])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_what_could_run_is_never_put_into_a_page(kind: str, where: str, tmp_path: Path) -> None:
    """A drawing is named; its bytes reach neither a notebook nor a decoder."""
    data = b"<svg onload='canary()'/>" * 100_000
    path = tmp_path / "a&b.svg"
    path.write_bytes(data)
    image = Image(data=data, media_type=kind)
    if where == "file":
        image = Image(path=path, media_type=kind)

    bundle, _ = image._repr_mimebundle_()
    assert set(bundle) == {"text/plain"}
    grid, _ = module.grid_bundle([image], "a caption", "plain")
    assert kind in grid["text/html"]
    assert "<img" not in grid["text/html"]
    assert "canary" not in grid["text/html"]
    assert ("a&amp;b.svg" in grid["text/html"]) is (where == "file")
    assert module.thumbnail(image, 8) is image


def test_display_protocol_filters() -> None:
    """IPython's include and exclude choose among the types."""
    image = Image(data=picture(), media_type="image/png")

    assert set(image._repr_mimebundle_(include={"image/png"})[0]) == {"image/png"}
    assert set(image._repr_mimebundle_(exclude=["image/png"])[0]) == {"text/plain"}


def test_to_pil_decodes_bytes_and_files(tmp_path: Path) -> None:
    """to_pil gives a loaded picture, from memory or from a file that may then go."""
    path = tmp_path / "a.png"
    path.write_bytes(picture(side=5))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = Image(path=path).to_pil()
        path.unlink()

    assert opened.getpixel((4, 4)) is not None
    assert Image(data=picture(side=7)).to_pil().size == (7, 7)


def test_to_pil_of_a_link_says_what_to_do() -> None:
    """A link cannot be decoded; the error names read and save."""
    with pytest.raises(ValueError, match=r"read\(\) or save\(\)"):
        Image(url="https://x.example/a.png").to_pil()


def test_to_pil_without_pillow_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Pillow the error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)

    with pytest.raises(ImportError, match="Pillow"):
        Image(data=b"x").to_pil()
