"""Escaping, and pictures inside the page."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmalign.report.html import MAX_SIDE, Html, document, element, join, picture, prose, table


def test_strings_are_escaped_and_elements_are_not() -> None:
    inner = element("b", {"title": '"><script>'}, "1 < 2 & 'x'")
    assert str(inner) == '<b title="&quot;&gt;&lt;script&gt;">1 &lt; 2 &amp; &#x27;x&#x27;</b>'
    assert str(element("p", None, inner, "<b>")) == f"<p>{inner}&lt;b&gt;</p>"
    assert str(join(["<", Html("<br>")])) == "&lt;<br>"
    assert "&lt;td&gt;" in str(table(["a"], [["x", "<td>"]]))


def test_words_between_backticks_are_code() -> None:
    assert str(prose("gives `acc` & `f<1>`.")) == "gives <code>acc</code> &amp; <code>f&lt;1&gt;</code>."
    assert str(prose("one ` alone")) == "one ` alone"


def test_characters_that_html_forbids_are_replaced() -> None:
    assert str(join(["a\x00b\x1bc\ud800d\te\nf"])) == "a\ufffdb\ufffdc\ufffdd\te\nf"


def test_names_of_elements_and_attributes_are_not_data() -> None:
    with pytest.raises(AssertionError):
        element("b><script")
    with pytest.raises(AssertionError):
        element("b", {"x onload": ""})


def decoded(markup: Html) -> tuple[Image.Image, dict[str, str]]:
    """The inlined picture and the attributes of an <img>."""
    found: dict[str, str] = {}

    class Finder(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.update({key: value or "" for key, value in attrs})

    Finder().feed(str(markup))
    kind, _, data = found["src"].partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))), found


def test_small_pictures_stay_as_they_are_with_hard_pixels() -> None:
    original = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    image, attributes = decoded(picture(original, 'a "red" circle'))
    assert np.array_equal(np.asarray(image), np.asarray(original))
    assert attributes["class"] == "pixelated" and attributes["alt"] == 'a "red" circle'


def test_large_pictures_are_made_smaller_and_lose_what_came_with_them() -> None:
    large = Image.new("RGB", (1024, 512), (10, 200, 30))
    large.info["icc_profile"] = b"where it came from"
    image, attributes = decoded(picture(large, "x"))
    assert image.size == (MAX_SIDE, MAX_SIDE // 2) and image.getpixel((5, 5)) == (10, 200, 30)
    assert attributes["class"] == "smooth" and "icc_profile" not in image.info
    assert large.size == (1024, 512)


def test_a_page_declares_that_it_loads_nothing() -> None:
    page = str(document("<t>", "p { margin: 0 }", "body"))
    assert "<title>&lt;t&gt;</title>" in page and "<style>p { margin: 0 }</style>" in page
    assert "default-src &#x27;none&#x27;; img-src data:; style-src &#x27;unsafe-inline&#x27;" in page
    with pytest.raises(AssertionError):
        document("t", "</style><script>", "body")
