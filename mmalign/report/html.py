"""HTML built from elements: every plain string is escaped, only what an element returned goes in as it is."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from PIL import Image

MAX_SIDE = 256
"""Longest side of a picture in the report, in pixels."""

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = frozenset({"meta", "img", "br"})


class Html:
    """A piece of finished markup. Only this module makes one from a string."""

    def __init__(self, markup: str) -> None:
        self._markup = markup

    def __str__(self) -> str:
        return self._markup


Child = Html | str


def escape(text: str) -> str:
    """Text safe between tags and within quoted attributes; characters that HTML forbids become U+FFFD."""
    return html.escape(_UNWANTED.sub("\ufffd", text), quote=True)


def element(name: str, attributes: Mapping[str, str] | None = None, *children: Child) -> Html:
    """One element. Strings among attributes and children are data; names are words of this package."""
    written = "".join(f' {_name(key)}="{escape(value)}"' for key, value in (attributes or {}).items())
    if name in _VOID:
        assert not children, f"<{name}> holds nothing"
        return Html(f"<{_name(name)}{written}>")
    return Html(f"<{_name(name)}{written}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Html:
    """Several pieces one after the other."""
    return Html("".join(str(child) if isinstance(child, Html) else escape(child) for child in children))


def prose(text: str) -> Html:
    """A sentence as data, with what stands between two backticks in it as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return join([text])
    return join(element("code", None, part) if place % 2 else part for place, part in enumerate(parts))


def document(title: str, css: str, *body: Child) -> Html:
    """A whole page that may load nothing: its policy admits inlined style and data: pictures only."""
    assert "</" not in css, "style is inlined and may not end its element"
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("title", None, title),
        element("style", None, Html(css)),
    )
    page = element("html", {"lang": "en"}, head, element("body", None, element("main", None, *body)))
    return Html(f"<!doctype html>\n{page}\n")


def section(title: str, *children: Child) -> Html:
    """One headed section of the page."""
    return element("section", None, element("h2", None, title), *children)


def table(heads: Sequence[Child], rows: Iterable[Sequence[Child]], name: str = "") -> Html:
    """A table; the first cell of a row is its heading. It scrolls sideways where the screen is narrow."""
    top = [element("th", {"scope": "col"}, head) for head in heads]
    body = [
        element(
            "tr", None, element("th", {"scope": "row"}, row[0]), *(element("td", None, c) for c in row[1:])
        )
        for row in rows
    ]
    parts = [element("thead", None, element("tr", None, *top))] if heads else []
    parts.append(element("tbody", None, *body))
    return element("div", {"class": f"table {name}".strip()}, element("table", None, *parts))


def picture(image: Image.Image, words: str) -> Html:
    """A picture inlined as PNG, its longest side at most MAX_SIDE; a small one is shown with hard pixels."""
    small = image.convert("RGB")
    pixelated = max(small.size) <= MAX_SIDE // 2
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    small.info.clear()  # nothing of where the picture came from
    stream = io.BytesIO()
    small.save(stream, format="PNG", optimize=True)
    attributes = {
        "src": "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii"),
        "alt": words,
        "width": str(small.width),
        "height": str(small.height),
        "class": "pixelated" if pixelated else "smooth",
    }
    return element("img", attributes)


def _name(text: str) -> str:
    assert _NAME.fullmatch(text), f"{text!r} is no tag or attribute"
    return text
