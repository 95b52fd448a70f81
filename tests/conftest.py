"""What all tests share."""

import os

from imagen_async.testing import patch_aioresponses

patch_aioresponses()

for name in ("IMAGEN_BASE_URL", "IMAGEN_API_KEY"):
    # A developer's own gateway is nothing to test against.
    os.environ.pop(name, None)
