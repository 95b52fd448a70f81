"""Stars in the place of secrets: a gateway may echo the key in whatever it says."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

STARS = "***"
SHORTEST = 4
"""Characters of a secret; a shorter one hides nothing, and would stand in too many words."""
LONG = 8
"""Characters from which a secret is masked inside of words too."""

_Form = tuple[str, re.Pattern[str]]


def _forms(secrets: Iterable[str]) -> tuple[_Form, ...]:
    """Return each way to write the secrets: what to look for first, and the whole of it."""
    forms: dict[str, _Form] = {}
    for secret in secrets:
        plain = base64.b64encode(secret.encode()).decode().rstrip("=")
        written = [secret]
        if len(secret) >= LONG:
            written += [plain, plain.replace("+", "-").replace("/", "_")]
        for text in written:
            if len(text) >= SHORTEST:
                # Letters and digits are never escaped: none of them there, no secret either.
                runs = re.findall("[a-z0-9]+", text.lower())
                forms[text] = max(runs, key=len, default=""), _pattern(text)
    return tuple(forms.values())


def _pattern(text: str) -> re.Pattern[str]:
    whole = "".join(map(_escapes, text))
    if len(text) < LONG:
        whole = rf"(?<![\w-]){whole}(?![\w-])"
    return re.compile(whole, re.IGNORECASE)


def _escapes(character: str) -> str:
    """Return a pattern of a character as it is, and as JSON, HTML and URLs write it."""
    if character.isalnum():
        return character
    from html.entities import codepoint2name  # here: not every client has a secret

    code, plain = ord(character), re.escape(character)
    name = codepoint2name.get(code, "#")
    return rf"(?:\\?{plain}|\\u{code:04x}|%{code:02x}|&(?:{name}|#0*{code}|#x0*{code:x});)"


@attrs.frozen(eq=False, repr=False)
class Mask:
    """Masks secrets in text, in any case, also in base64 or escaped for JSON, HTML or a URL.

    Args:
        secrets: Those of fewer than 8 characters are masked where they are whole words, those
            of fewer than 4 nowhere.
    """

    _forms: tuple[_Form, ...] = attrs.field(
        default=(), converter=_forms, repr=False, alias="secrets"
    )

    def text(self, text: str) -> str:
        """Return a text with stars in the place of each secret; cheap if it holds none."""
        lowered = text.lower()
        for run, pattern in self._forms:
            if run in lowered:
                text = pattern.sub(STARS, text)
        return text

    def document(self, document: Any) -> Any:
        """Return JSON with its texts masked, names too; objects and arrays change in place."""
        top = [document]
        nodes: list[Any] = [top]
        while self._forms and nodes:
            node = nodes.pop()
            for place, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
                if isinstance(value, str):
                    node[place] = self.text(value)
                elif isinstance(value, dict | list):
                    nodes.append(value)
                if isinstance(place, str) and (shown := self.text(place)) != place:
                    node[shown] = node.pop(place)
        return top[0]


NO_MASK = Mask()


@attrs.frozen(eq=False, repr=False)
class MaskedHeaders(Mapping[str, str]):
    """An answer's headers, each masked when it is read.

    Args:
        headers: A case-insensitive mapping.
        mask: Of the client.
    """

    _headers: Mapping[str, str] = attrs.field(repr=False)
    _mask: Mask

    def __getitem__(self, name: str) -> str:
        return self._mask.text(self._headers[name])

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return a header; Mapping's own way is slow where there is none."""
        found = self._headers.get(name)
        return default if found is None else self._mask.text(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)
