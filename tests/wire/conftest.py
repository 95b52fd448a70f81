"""What the tests of the decoder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from imagen_async.wire import json_stream


@pytest.fixture(scope="module", params=[1, json_stream.GATHER])
def gather(request: pytest.FixtureRequest) -> Iterator[None]:
    """Take every piece as it is cut, then as users do: gathered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "GATHER", request.param)
        yield
