"""openai-python at work in an environment of its own: orders in, what it saw out, a line each."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import openai


def outcome(answer: Any) -> dict[str, Any]:
    """Return what an answer looks like through the library's own types."""
    return {
        "type": type(answer).__name__,
        "created": answer.created,
        "images": [
            {"type": type(item).__name__, "url": item.url, "b64_json": item.b64_json}
            for item in answer.data
        ],
        "revised_prompts": [item.revised_prompt for item in answer.data],
        "total_tokens": answer.usage and answer.usage.total_tokens,
        "request_id": answer._request_id,
    }


def trouble(error: openai.OpenAIError) -> dict[str, Any]:
    """Return what an error looks like."""
    fields = ("status_code", "code", "param", "type", "request_id", "message")
    return {"error": type(error).__name__} | {name: getattr(error, name, None) for name in fields}


def blocking(settings: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    with openai.OpenAI(**settings) as client:
        return outcome(client.images.generate(**arguments))


async def waiting(settings: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    async with openai.AsyncOpenAI(**settings) as client:
        return outcome(await client.images.generate(**arguments))


def streamed(settings: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    with (
        openai.OpenAI(**settings) as client,
        client.images.generate(**arguments, stream=True) as stream,
    ):
        events = [{"class": type(event).__name__, **event.model_dump()} for event in stream]
    return {"events": events}


def model(settings: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    with openai.OpenAI(**settings) as client:
        return {"model": client.models.retrieve(**arguments).id}


def models(settings: dict[str, Any]) -> dict[str, Any]:
    with openai.OpenAI(**settings) as client:
        return {"models": [model.id for model in client.models.list()]}


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """Do one order: ``how`` is sync, async, stream, model or models."""
    try:
        if order["how"] == "stream":
            return streamed(order["settings"], order["arguments"])
        if order["how"] == "model":
            return model(order["settings"], order["arguments"])
        if order["how"] == "models":
            return models(order["settings"])
        if order["how"] == "sync":
            return blocking(order["settings"], order["arguments"])
        return asyncio.run(waiting(order["settings"], order["arguments"]))
    except openai.OpenAIError as error:
        return trouble(error)


for line in sys.stdin:
    began = time.monotonic()
    seen = obey(json.loads(line))
    print(json.dumps(seen | {"seconds": time.monotonic() - began}), flush=True)
