"""Fill the generated parts of the reference from the code: ``python docs/generate.py``.

A page holds ``<!-- generated: NAME -->`` and ``<!-- end -->``; what is between is made here.
A test says when a page is behind the code.
"""

from __future__ import annotations

import inspect
import re
from html import escape, unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from imagen_async import AsyncImagen, Limits, RetryPolicy, Timeouts
from imagen_async.cli.commands import imagen_async
from imagen_async.cli.help import Command, Option
from imagen_async.emulator import DIALECTS, PROFILES, FaultRule
from imagen_async.emulator.control import _ENDPOINTS
from imagen_async.emulator.faults import KINDS, Stage
from imagen_async.emulator.settings import CALL_LOGS, COSTS, DRAWINGS, TASKS, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

HERE = Path(__file__).parent
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def cell(text: str) -> str:
    """Return text as one cell of a table, with code that holds a bar as every reader shows it."""
    parts = escape(" ".join(text.replace("``", "`").split()), quote=False).split("`")
    for place, part in enumerate(parts):
        code = f"`{unescape(part)}`" if "|" not in part else f"<code>{part}</code>"
        parts[place] = (code if place % 2 else part).replace("|", "&#124;")
    return "".join(parts)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def arguments(documented: object) -> dict[str, str]:
    """Return the arguments that a docstring tells of, with what it says."""
    found = re.search(
        r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.getdoc(documented) or "", re.MULTILINE
    )
    parts = re.split(r"^ {4}(\w+): ", found[1] if found else "", flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def default(value: Any) -> str:
    """Return a default as code."""
    if value in (attrs.NOTHING, inspect.Parameter.empty):
        return ""
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        return ""
    return f"`{value!r}`"


def fields(kind: Any) -> str:
    """Return the fields of an attrs class as a table."""
    told = arguments(kind)
    rows = [
        (f"`{field.name}`", f"`{field.type}`", default(field.default), told[field.name])
        for field in attrs.fields(kind)
        if field.init
    ]
    return table(("name", "type", "default", "meaning"), rows)


def parameters(function: Callable[..., Any], told: Mapping[str, str]) -> str:
    """Return the parameters of a function as a table."""
    rows = [
        (f"`{each.name}`", f"`{each.annotation}`", default(each.default), told[each.name])
        for each in inspect.signature(function).parameters.values()
        if each.name in told
    ]
    return table(("name", "type", "default", "meaning"), rows)


def names(kinds: Mapping[str, str]) -> str:
    """Return names and what they mean as a table."""
    return table(("name", "meaning"), ((f"`{name}`", text) for name, text in kinds.items()))


def environment() -> str:
    """Return the variables that the command line reads."""
    return _section(imagen_async, "Environment")


def exit_codes() -> str:
    """Return the exit codes of the command line."""
    return _section(imagen_async, "Exit codes")


def _section(command: Command, title: str) -> str:
    rows = command._sections[title]  # noqa: SLF001
    assert not callable(rows)
    return names(dict(rows))


def faults() -> str:
    """Return the faults of the emulator, by where they strike."""
    parts = []
    for stage in Stage:
        rows = [
            (f"`{name}`", kind.text, f"`{kind.argument}`" if kind.argument else "")
            for name, kind in KINDS.items()
            if kind.stage is stage
        ]
        title = stage.value[0].upper() + stage.value[1:]
        parts.append(f"**{title}**\n\n{table(('fault', 'what happens', 'argument'), rows)}")
    return "\n".join(parts)


def profiles() -> str:
    """Return the latencies of the emulator."""
    rows = [(f"`{name}`", f"{each.p50} s", f"{each.p95} s") for name, each in PROFILES.items()]
    return table(("profile", "half are faster than", "19 of 20 are faster than"), rows)


def endpoints() -> str:
    """Return the control endpoints of the emulator."""
    rows = [(f"`/_emulator/{name}`", ", ".join(methods)) for name, methods in _ENDPOINTS.items()]
    return table(("path", "methods"), rows)


def commands() -> str:
    """Return all commands, with their options in their groups."""
    # click keeps a command's help option as the first context that asked for it named it.
    settings = imagen_async.context_settings
    root = click.Context(imagen_async, info_name="imagen-async", **settings)
    parts = []
    for name, command in imagen_async.commands.items():
        assert isinstance(command, Command)
        with click.Context(command, info_name=name, parent=root) as context:
            parts.append(f"## {name}\n\n{_command(command, context)}")
    return "\n".join(parts)


def _command(command: Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    examples = "\n".join(command._examples)  # noqa: SLF001
    text = re.sub(r"(?<=\s)\\b\n|\f", "", inspect.cleandoc(command.help or ""))
    parts = [f"`{usage}`\n", f"{text}\n", f"```text\n{examples}\n```\n"]
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, Option) and record is not None:
            groups.setdefault(parameter.group, []).append((f"`{record[0]}`", record[1]))
    parts += [
        f"**{title}**\n\n{table(('option', 'meaning'), rows)}" for title, rows in groups.items()
    ]
    if command.epilog:
        parts.append(f"{command.epilog}\n")
    return "\n".join(parts)


MADE: Mapping[str, Callable[[], str]] = {
    "client": lambda: parameters(AsyncImagen.__init__, arguments(AsyncImagen)),
    "batch": lambda: parameters(AsyncImagen.batch, arguments(AsyncImagen.batch)),
    "limits": lambda: fields(Limits),
    "timeouts": lambda: fields(Timeouts),
    "retry": lambda: fields(RetryPolicy),
    "environment": environment,
    "exit_codes": exit_codes,
    "commands": commands,
    "faults": faults,
    "rule": lambda: fields(FaultRule),
    "settings": lambda: fields(Settings),
    "dialects": lambda: names(DIALECTS),
    "drawings": lambda: names(DRAWINGS),
    "call_logs": lambda: names(CALL_LOGS),
    "tasks": lambda: names(TASKS),
    "costs": lambda: names(COSTS),
    "profiles": profiles,
    "endpoints": endpoints,
}


def filled(text: str) -> str:
    """Return a page with its generated parts made anew."""
    return PART.sub(lambda part: f"{part[1]}\n{MADE[part[2]]()}\n{part[3]}", text)


if __name__ == "__main__":
    for path in HERE.glob("reference/*.md"):
        before = path.read_text()
        after = filled(before)
        if after != before:
            path.write_text(after)
            print(path)
