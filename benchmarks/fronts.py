"""What an order costs behind real fronts and forwarding gateways, whose origin breaks off.

Run as ``python -m benchmarks.fronts [--litellm VENV] [--portkey FOLDER] [NAME ...]``: every front
that is installed, LiteLLM if VENV has ``litellm[proxy]``, Portkey if FOLDER has
``@portkey-ai/gateway``. The origin takes and charges each order and then breaks off. Each row
tells what one call came to with the defaults: how often it was sent, how many orders the origin
saw (LiteLLM sends each one 9 times), and what the error says. The run fails if one was sent again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from imagen_async import AsyncImagen, Charge, ImagenError, Limits
from tests.chaos.faults import body
from tests.chaos.server import ChaosServer, serving
from tests.fronts.stock import FRONTS, free_port, fronting, running
from tests.fronts.ways import WAYS

ALL = {**WAYS, "an error inside a 200": body(b'{"error": {"message": "upstream died"}}')}
LITELLM = """
model_list:
- model_name: imagen4
  litellm_params:
    { model: openai/dall-e-3, api_base: "http://127.0.0.1:%d/v1", api_key: sk-x, timeout: 2 }
"""


Opener: TypeAlias = Callable[[ChaosServer, Path], AbstractAsyncContextManager[AsyncImagen]]


@asynccontextmanager
async def front(name: str, origin: ChaosServer, folder: Path) -> AsyncIterator[AsyncImagen]:
    """Run a front; yield a client of its route to the origin."""
    async with fronting(name, folder, origin) as url, client(f"{url}/origin/v1") as imagen:
        yield imagen


@asynccontextmanager
async def litellm(venv: Path, origin: ChaosServer, folder: Path) -> AsyncIterator[AsyncImagen]:
    """Run the LiteLLM proxy; yield a client of it."""
    config, port = folder / "config.yaml", free_port()
    config.write_text(LITELLM % origin.port)
    command = [str(venv / "bin/litellm"), "--config", str(config), "--port", str(port)]
    async with running(command, folder, port), client(f"http://127.0.0.1:{port}/v1") as imagen:
        yield imagen


@asynccontextmanager
async def portkey(modules: Path, origin: ChaosServer, folder: Path) -> AsyncIterator[AsyncImagen]:
    """Run Portkey's gateway; yield a client of it."""
    script = modules / "node_modules/@portkey-ai/gateway/build/start-server.js"
    port = free_port()
    headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{origin.port}/v1",
        "x-portkey-request-timeout": "2000",
    }
    command = ["node", str(script), f"--port={port}", "--headless"]
    url = f"http://127.0.0.1:{port}/v1"
    async with running(command, folder, port), client(url, headers) as imagen:
        yield imagen


def client(base_url: str, headers: dict[str, str] | None = None) -> AsyncImagen:
    """Return a client with the defaults, but for a model and its concurrency."""
    return AsyncImagen(
        base_url=base_url,
        api_key="sk-x",
        model="imagen4",
        headers=headers,
        limits=Limits(concurrency=len(ALL)),
    )


async def tell(name: str, opener: Opener) -> list[ImagenError]:
    """Print and return what the call of each way of breaking off came to."""
    async with serving(choose=ALL.get) as origin:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)  # some fronts read their files as another user
            async with opener(origin, Path(folder)) as imagen:
                calls = (imagen.generate(way) for way in ALL)
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, ImagenError)]
    for way, error in zip(ALL, errors, strict=True):
        orders = origin.ledger.charges[way]
        said = f"{error.status or '-':>3} {error.verdict}, charge {error.charge.name.lower()}"
        print(f"{name:<15} {way:<22} {error.attempts:>5} {orders:>6}  {said}", flush=True)
    return errors


async def main(names: list[str], venv: Path | None, modules: Path | None) -> int:
    """Tell of all that is there; return how many orders were sent again."""
    openers: dict[str, Opener] = {
        name: partial(front, name) for name in FRONTS if FRONTS[name].path
    }
    if venv:
        openers["LiteLLM"] = partial(litellm, venv)
    if modules:
        openers["Portkey"] = partial(portkey, modules)
    print(f"{'front':<15} {'way of breaking off':<22} {'sends':>5} {'orders':>6}  said")
    chosen = [name for name in openers if not names or name in names]
    errors = [error for name in chosen for error in await tell(name, openers[name])]
    again = sum(error.attempts > 1 for error in errors)
    free = sum(error.charge is Charge.NO for error in errors)
    print(f"\n{len(chosen)} fronts, {len(errors)} orders: {again} sent again, {free} told as free")
    return again


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--litellm", type=Path, metavar="VENV")
    parser.add_argument("--portkey", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    sys.exit(1 if asyncio.run(main(args.names, args.litellm, args.portkey)) else 0)
