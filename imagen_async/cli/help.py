"""Help with examples first and options in groups; click alone is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Section: TypeAlias = Sequence[tuple[str, str]]

ARGUMENTS: Final = "imagen_async.arguments"
"""Where a context keeps what was typed after the command's name."""
GATEWAY_FIELDS: Final = {
    "--size": "size=1024x1024",
    "--quality": "quality=high",
    "--style": "style=vivid",
    "--background": "background=transparent",
    "--seed": "seed=7",
    "--negative-prompt": "negative_prompt=blurry",
}
"""Options of other tools that are fields of some gateways, as ``--set`` takes them."""
_ENVIRONMENT: Final = (
    ("IMAGEN_BASE_URL", "Where the gateway answers, /v1 included."),
    ("IMAGEN_API_KEY", "Its key; there is no flag for it, which would show in lists of processes."),
    ("IMAGEN_DEBUG=1", "Show where an error came from."),
    ("NO_COLOR=1", "No colours."),
)
_EXIT_CODES: Final = (
    ("0", "done"),
    ("1", "an error, such as a full disk"),
    ("2", "wrong usage; nothing was sent"),
    ("3", "a batch, or its dry run, with anything not done"),
    ("4", "rejected, or no quota"),
    ("5", "the server failed, or its answer is lost"),
    ("6", "the network, or a busy server"),
    ("130", "interrupted"),
)
SECTIONS: Final[Mapping[str, Section]] = {
    "Environment": _ENVIRONMENT,
    "Exit codes": _EXIT_CODES,
    "Shell completion, in ~/.bashrc (zsh_source and fish_source likewise)": (
        ('eval "$(_IMAGEN_ASYNC_COMPLETE=bash_source imagen-async)"', ""),
    ),
}
"""What the help of the program ends with."""


class Option(click.Option):
    """An option that is listed in a group.

    Args:
        *words: As click takes them.
        group: The group's title.
        **settings: As click takes them.
    """

    def __init__(self, *words: Any, group: str = "Other", **settings: Any) -> None:
        settings.setdefault("show_default", bool(settings.get("default")))
        super().__init__(*words, **settings)
        self.group: str = group
        self.metavar: str | None = self.metavar
        if self.metavar is None and isinstance(
            self.type, click.types.IntRange | click.types.FloatRange
        ):
            self.metavar = "NUMBER"

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        """Leave out what numbers are taken: an error says it to the one who needs it."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class Command(click.Command):
    """A command whose help begins with examples.

    Args:
        *words: As click takes them.
        examples: Whole lines, each to be pasted alone.
        sections: What follows the options, by title: terms and texts, or what returns them.
        **settings: As click takes them.
    """

    def __init__(
        self,
        *words: Any,
        examples: Sequence[str] = (),
        sections: Mapping[str, Section | Callable[[], Section]] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*words, **settings)
        self._examples = examples
        self._sections = sections or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what was typed, and say how to send what only a gateway knows."""
        ctx.meta[ARGUMENTS] = tuple(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = {word for each in self.params for word in each.opts}
            field = GATEWAY_FIELDS.get(error.option_name)
            if field is None or "--set" not in known:
                raise
            hint = f"No such option: {error.option_name}; send the gateway's own fields with --set"
            raise click.NoSuchOption(
                error.option_name, f"{hint}: --set {field}.", ctx=ctx
            ) from None

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, and the examples."""
        super().format_help_text(ctx, formatter)
        if self._examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self._examples))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, then the closing words."""
        for title, section in self._sections.items():
            with formatter.section(title):
                formatter.write_dl(list(section() if callable(section) else section))
        super().format_epilog(ctx, formatter)


class Group(Command, click.Group):
    """A group of commands with examples of its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)
