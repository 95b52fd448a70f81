"""``python -m imagen_async``: the command line."""

import sys

from imagen_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
