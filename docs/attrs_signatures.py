"""Tell griffe, which reads the sources for the reference, what attrs classes are made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFINERS = {"attrs.frozen", "attrs.define"}


def _arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, griffe.ExprCall):
        return {}
    return {each.name: each.value for each in value.arguments if hasattr(each, "name")}


def _definer(kind: griffe.Class) -> Any:
    values = (each.value for each in kind.decorators)
    return next((each for each in values if each.canonical_path in DEFINERS), None)


def _parameters(kind: griffe.Class) -> Iterator[griffe.Parameter]:
    definer = _definer(kind)
    if definer is None:
        return
    by_name = _arguments(definer).get("kw_only") == "True"
    for member in kind.members.values():
        if not isinstance(member, griffe.Attribute) or member.annotation is None:
            continue
        field = member.value
        own = isinstance(field, griffe.ExprCall) and field.canonical_path == "attrs.field"
        told = _arguments(field) if own else {"default": field} if field is not None else {}
        if told.get("init") == "False":
            continue
        kw_only = by_name or told.get("kw_only") == "True"
        yield griffe.Parameter(
            member.name,
            annotation=member.annotation,
            kind=griffe.ParameterKind.keyword_only
            if kw_only
            else griffe.ParameterKind.positional_or_keyword,
            default="..." if "factory" in told else told.get("default"),
        )


class AttrsExtension(griffe.Extension):
    """Give each attrs class the constructor that attrs makes."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Do so for every class of a package."""
        self._walk(pkg)

    def _walk(self, found: griffe.Module | griffe.Class) -> None:
        for member in list(found.members.values()):
            if isinstance(member, griffe.Module | griffe.Class):
                self._walk(member)
        if isinstance(found, griffe.Class) and _definer(found) and "__init__" not in found.members:
            parents = [*reversed(found.mro()), found]
            made = {each.name: each for parent in parents for each in _parameters(parent)}
            ordered = sorted(made.values(), key=lambda each: str(each.kind) == "keyword-only")
            receiver = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
            found.set_member(
                "__init__",
                griffe.Function(
                    "__init__",
                    parameters=griffe.Parameters(receiver, *ordered),
                    returns="None",
                    lineno=found.lineno,
                    endlineno=found.lineno,
                    parent=found,
                ),
            )
