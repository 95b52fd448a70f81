"""What all tests share."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from imagen_async.session import transport
from imagen_async.testing import patch_aioresponses

patch_aioresponses()

HERE = Path(__file__).parent
ONCE = (
    "batch/test_gallery_page.py",
    "chaos/test_figures.py",
    "fidelity",
    "fronts",
    "test_docs.py",
    "test_public.py::test_functions_are_short",
    "test_public.py::test_one_module_imports_the_http_client",
    "test_readme.py",
    "test_site.py",
    "wire/test_decoder.py::test_every_one_byte_change",
    "wire/test_salvage.py::test_what_arrived_whole_is_kept_wherever",
    "wire/test_sse.py::test_the_completed_image_is_the_answer",
)
"""What asks a browser, a foreign client, a front or a page, and pure code by its every byte."""


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Mark what one Python has to run; see the marker in pyproject.toml."""
    for item in items:
        if f"{item.path.relative_to(HERE)}::{item.name}".startswith(ONCE):
            item.add_marker("once")


# A machine that is busy elsewhere says nothing of the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

for name in ("IMAGEN_BASE_URL", "IMAGEN_API_KEY"):
    # A developer's own gateway is nothing to test against.
    os.environ.pop(name, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell does so to what it starts in the background; children would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["exchange", "session"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Send POSTs over the connection itself, then through aiohttp's session; return which."""
    way: str = request.param
    if way == "session":
        monkeypatch.setattr(transport, "usable", lambda: False)
    return way
