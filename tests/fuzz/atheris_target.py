"""The long walk: atheris, guided by coverage, through the same targets as ``test_fuzz.py``.

It is not run by pytest, and atheris is not among the requirements of the tests::

    pip install atheris
    PYTHONPATH=. python tests/fuzz/atheris_target.py -runs=5000000 -max_len=400 \
        -timeout=5 -rss_limit_mb=600 CORPUS_FOLDER

The first byte of an input picks the target. A find ends the run and is written to ``crash-*``;
replay it by giving that file instead of the folder, fix it, and keep it as a regression test.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["imagen_async"]):
    from tests.fuzz.targets import TARGETS, TOKENS

_targets = list(TARGETS.values())
SEEDS = (
    *TOKENS,
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x02\0\0\0\0\0\0\0\0\0\0\0IEND\0\0\0\0",
    b"Sun, 06 Nov 1994 08:49:37 GMT\nSunday, 06-Nov-94 08:49:37 GMT\n1.5",
    b"https://[::ffff:127.0.0.1]:443/a?b=%2B#c",
    "con.txt \u202e\u200b e\u0301 \U0001f600".encode(),
)


def one(data: bytes) -> None:
    """Run one input through the target of its first byte."""
    if data:
        _targets[data[0] % len(_targets)](data[1:])


def main() -> None:
    """Write the seeds beside the corpus and run."""
    with tempfile.TemporaryDirectory() as seeds:
        for target in range(len(_targets)):
            for number, seed in enumerate(SEEDS):
                Path(seeds, f"{target}-{number}").write_bytes(bytes([target]) + seed)
            Path(seeds, f"{target}-soup").write_bytes(bytes([target, 9, 0, 1, 22, 3, 5]))
        replay = any(Path(given).is_file() for given in sys.argv[1:])
        atheris.Setup(sys.argv if replay else [*sys.argv, seeds], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
