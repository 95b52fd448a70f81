"""What all tests share."""

import os
import signal

from imagen_async.testing import patch_aioresponses

patch_aioresponses()

for name in ("IMAGEN_BASE_URL", "IMAGEN_API_KEY"):
    # A developer's own gateway is nothing to test against.
    os.environ.pop(name, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell does so to what it starts in the background; children would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
