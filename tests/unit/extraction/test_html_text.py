"""What HTML becomes."""

import pytest

from shoal.extraction.document_types import Unreadable
from shoal.extraction.html_text import escaped, extract, markdown_of

PAGE = """<!doctype html><html><head><title> Fish &amp; Chips </title><style>p {}</style></head>
<body><nav><ul><li>Home</li></ul></nav>
<h1 id=a>Fish<a href="#a" aria-hidden="true">¶</a></h1>
<p>Most fish rest
with <b>open</b> eyes.<br>Some do not.</p>
<script>alert("<p>no</p>")</script>
<ul><li>one<li><p>two</p><ol><li>deep</li><li>deeper</li></ol></li></ul>
<pre><code>a  =  1
# b &lt; 2
</code></pre>
<table><caption>Sizes</caption><tr><th>name<th>cm</tr><tr><td>cod | ling<td><p>90</p></tr></table>
<div hidden><div>unseen</div>unseen</div>
<h2>Rest</h2>text<div>more</div>
<footer>Imprint</footer></body></html>"""

MARKDOWN = """\
# Fish

Most fish rest with open eyes.
Some do not.

- one
- two
  1. deep
  2. deeper

```
a  =  1
# b < 2
```

Sizes

| name | cm |
| --- | --- |
| cod \\| ling | 90 |

## Rest

text

more"""


def test_a_page_becomes_markdown() -> None:
    assert markdown_of(PAGE) == MARKDOWN


def test_the_title_stands_in_for_a_heading() -> None:
    assert markdown_of("<title>A  title</title><p>words") == "# A title\n\nwords"
    assert markdown_of("<title>A title</title><h1>Words</h1>more") == "# Words\n\nmore"
    assert markdown_of("<title>A title</title><p>words", deeper=1) == "words"
    assert markdown_of("<h1>One</h1><h6>Six</h6>x", deeper=1) == "## One\n\n###### Six\n\nx"


@pytest.mark.parametrize("main", ["<main>{}</main>", '<div role="main"><div>{}</div></div>'])
def test_a_page_that_says_what_its_main_part_is_gives_that(main: str) -> None:
    page = f"<header>Logo</header><div>Menu</div>{main.format('<h1>Text</h1><p>words</p>')}<p>Comments</p>"
    assert markdown_of(page) == "# Text\n\nwords"
    assert markdown_of("<p>words</p><main><script>x</script></main>") == "words"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>é".encode(), "é"),
        (b"\xef\xbb\xbf<p>\xc3\xa9", "é"),
        ('<meta charset="iso-8859-1"><p>é“'.encode("cp1252"), "é“"),
        ('<?xml version="1.0" encoding="koi8-r"?><p>рыба'.encode("koi8-r"), "рыба"),
        ("<p>é".encode("utf-16"), "é"),
    ],
)
def test_encodings(data: bytes, text: str) -> None:
    assert extract(data) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<p>\xe9", "is not valid UTF-8 (byte 4) and names no other encoding"),
        (b"<meta charset=nonsense><p>\xe9", "is in the encoding nonsense, which is not known"),
        (b"<title>x</title><script>text</script>", "holds no text"),
        (b"", "holds no text"),
    ],
)
def test_what_cannot_be_read(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        extract(data)
    assert str(caught.value) == reason


def test_text_that_looks_like_markup_stays_text() -> None:
    assert markdown_of("<p># no heading<br>```<br>---</p>") == "\\# no heading\n\\```\n\\---"
    assert escaped("#1 is no heading") == "#1 is no heading"
    assert markdown_of("<pre>``` in code</pre>") == "````\n``` in code\n````"


@pytest.mark.parametrize(
    "page",
    [
        "</div></p></table>words",
        "<div hidden><div>x</div>y</div>words",
        "<table><tr><td>words",
        "<li>words",
        "<td>words</td>",
        "<h1>words",
        "<p>words<!-- open",
        "<nav><p>x</nav></nav>words",
        "<p\x00>words",
    ],
)
def test_broken_pages_keep_their_words(page: str) -> None:
    assert "words" in markdown_of(page)
