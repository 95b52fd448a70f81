"""openai-python in a throw-away environment, as a process that takes orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagen_async.emulator import Emulator

UNREACHABLE = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "Temporary failure in name resolution",
)
"""What pip says of a registry that it cannot reach; anything else is a failure."""


@attrs.frozen
class Foreign:
    """A client that was written against the real service."""

    orders: IO[str]
    reports: IO[str]

    def generate(
        self, emulator: Emulator, *, how: str = "sync", retries: int = 0, **arguments: Any
    ) -> dict[str, Any]:
        """Generate images; return what the library gave or raised."""
        arguments = {"model": "imagen4", "prompt": "A lighthouse"} | arguments
        return self.ask(emulator, how, max_retries=retries, arguments=arguments)

    def ask(
        self, emulator: Emulator, how: str, *, key: str = "sk-foreign", **more: Any
    ) -> dict[str, Any]:
        """Give one order and wait for its report."""
        arguments = more.pop("arguments", {})
        settings = {"base_url": emulator.base_url, "api_key": key, "timeout": 20} | more
        order = {"how": how, "settings": settings, "arguments": arguments}
        self.orders.write(json.dumps(order) + "\n")
        self.orders.flush()
        report: dict[str, Any] = json.loads(self.reports.readline())
        return report


def _environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", "openai"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=110)
    if done.returncode:
        if any(sign in done.stderr for sign in UNREACHABLE):
            pytest.skip("the package registry cannot be reached, so openai is not installed")
        pytest.fail(f"openai cannot be installed:\n{done.stderr}")
    return python


@pytest.fixture(scope="session")
def openai_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    """openai-python, ready for orders."""
    python = _environment(tmp_path_factory.mktemp("openai") / "venv")
    script = Path(__file__).with_name("openai_client.py")
    # Neither our package nor a developer's own settings may help it.
    ours = ("OPENAI_", "PYTHON")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with subprocess.Popen(
        [str(python), str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        yield Foreign(child.stdin, child.stdout)
