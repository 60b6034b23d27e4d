"""API keys: how one is made, what a server keeps of it, and whose key a client has shown.

A key is 256 random bits, so its plain SHA-256 tells nobody anything; a password would need a slow hash. A server has
one line for each key, and never the key itself:

    # name      hash             scope   most queries   what it is bound to
    search-ui   sha256:3a5f...   read    50/s
    importer    sha256:77d0...   write
    operator    sha256:90c1...   admin
    shop        sha256:1f88...   write   index=products,reviews
    acme        sha256:41bb...   write   10/s    namespace=acme

A word NAME=VALUE bounds a key: `index` names the indexes that it is good for, `namespace`, percent-encoded as in a URL,
the one whose passages it sees and changes; without one it is good for all.
Several lines may have one name, so that a client changes its key without a moment in which neither works.
"""

import hashlib
import hmac
import re
import secrets
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from shoal.errors import InvalidArgument
from shoal.namespaces import DEFAULT_ALIAS, check_namespace
from shoal.serving.index_name import is_index_name

VARIABLE = "SHOAL_API_KEYS"
"""Variable that holds lines of keys for a server, separated by line breaks or semicolons."""
PREFIX = "shoal_"
"""What every key begins with, so that scanners for leaked secrets know one when they see it."""
MAX_LENGTH = 256
"""Characters of a key that is looked at; ours have 49."""

INDEX_BOUND = "index"
"""The word of a line that names the indexes which a key is good for."""
NAMESPACE_BOUND = "namespace"
"""Name of the bound that says whose passages a key sees and changes alone."""
BOUNDS = (INDEX_BOUND, NAMESPACE_BOUND)
"""All words that may bound a key."""

Scope = Literal["read", "write", "admin"]
"""What a key is good for, each scope with what those before it allow: searching and looking at the index, changing its
passages, changing which version is served."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Names of keys."""
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
"""The digest of a key, as the key file writes it."""
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)/(s|min|h)")
"""A rate limit: queries a second, a minute or an hour."""
_NAMESPACE = "namespace="
"""What stands before the namespace that a key is bound to."""
_SECONDS = {"s": 1, "min": 60, "h": 3600}
"""Seconds of the units of a rate."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a server knows of a key.

    Args:
        name: Whose key it is.
        digest: SHA-256 of the key.
        scope: What it is good for.
        per_second: Queries that it may ask, None for any number.
        indexes: Names of the indexes that it is good for; None for all.
        namespace: The only one that its holder sees and changes; None for any.
    """

    name: str
    digest: bytes
    scope: Scope = "read"
    per_second: float | None = None
    indexes: frozenset[str] | None = None
    namespace: str | None = None


def includes(scope: Scope, wanted: Scope) -> bool:
    """Whether a scope allows what another one does."""
    scopes = get_args(Scope)
    return bool(scopes.index(scope) >= scopes.index(wanted))


def make() -> str:
    """Make a key."""
    return PREFIX + secrets.token_urlsafe(32)


def line(
    key: str,
    name: str,
    scope: str = "read",
    rate: str | None = None,
    indexes: Iterable[str] = (),
    namespace: str | None = None,
) -> str:
    """Write the line that a server keeps of a key.

    Raises InvalidArgument for a name, a scope, a rate, an index or a namespace that is none.

    Args:
        key: The key itself.
        name: Whose it is.
        scope: What it is good for.
        rate: Most queries, such as 50/s; None for any number.
        indexes: Names of the indexes that it is good for; none for all.
        namespace: That it is bound to; None for none, `__default__` for the default one.
    """
    bounds = [f"{INDEX_BOUND}={','.join(indexes)}"] if indexes else []
    if namespace is not None:
        shown = check_namespace(namespace) or DEFAULT_ALIAS
        bounds.append(f"{NAMESPACE_BOUND}={urllib.parse.quote(shown, safe='/:@')}")
    words = [name, f"sha256:{_digest(key).hex()}", scope, *([rate] if rate else []), *bounds]
    try:
        _entry(words)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
    return " ".join(words)


def parse(text: str, source: str) -> list[ApiKey]:
    """Read lines of keys; empty ones and comments are skipped.

    Raises InvalidArgument with the number of the line at fault and without its content, which may be a key that
    somebody put where its hash should be.

    Args:
        text: The lines.
        source: Where the text is from, for messages.
    """
    keys, problems = parse_lines(text, source)
    if problems:
        raise InvalidArgument(problems[0])
    return keys


def parse_lines(text: str, source: str) -> tuple[list[ApiKey], list[str]]:
    """Return the keys of the lines that can be read, and what is wrong with the others; see `parse`."""
    keys, problems = [], []
    for number, written in enumerate(re.split(r"[\n;]", text), 1):
        words = written.partition("#")[0].split()
        if not words:
            continue
        try:
            keys.append(_entry(words))
        except ValueError as error:
            problems.append(f"{source}, line {number}: {error}")
    return keys, problems


def find(keys: Iterable[ApiKey], presented: str) -> ApiKey | None:
    """Return the key that was presented; the time this takes tells nothing about how much of it was right."""
    if len(presented) > MAX_LENGTH:
        return None
    digest = _digest(presented)
    matching = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            matching = key
    return matching


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def _entry(line_words: list[str]) -> ApiKey:
    words = [word for word in line_words if "=" not in word]
    bounds = _bounds([word for word in line_words if "=" in word])
    if not 2 <= len(words) <= 4:
        raise ValueError("should be NAME HASH [SCOPE [RATE]] [index=A,B] [namespace=NAME], as `shoal keys` prints it")
    name, digest, scope, rate = *words, *(["read", ""][len(words) - 2 :])
    if not _NAME.fullmatch(name):
        raise ValueError("the name should be up to 64 letters, digits, dots, dashes and underscores")
    if not (hashed := _HASH.fullmatch(digest)):
        raise ValueError("the hash should be sha256: and 64 digits, as `shoal keys` prints it; never put a key here")
    if scope not in get_args(Scope):
        raise ValueError(f"the scope should be {', '.join(get_args(Scope)[:-1])} or {get_args(Scope)[-1]}")
    indexes = _indexes(bounds[INDEX_BOUND]) if INDEX_BOUND in bounds else None
    namespace = _namespace(bounds[NAMESPACE_BOUND]) if NAMESPACE_BOUND in bounds else None
    if namespace is not None and scope == "admin":
        raise ValueError("a key that is bound to a namespace cannot be admin, who sees what all share")
    return ApiKey(
        name,
        bytes.fromhex(hashed[1]),
        scope,  # type: ignore[arg-type]
        _per_second(rate) if rate else None,
        indexes,
        namespace,
    )


def _bounds(words: list[str]) -> dict[str, str]:
    """What bounds a key, by name: a bound that is not known is an error, never a key that is good for more."""
    bounds: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in BOUNDS:
            raise ValueError(f"a key is bound by {' or '.join(f'{bound}=' for bound in BOUNDS)} alone")
        if name in bounds:
            raise ValueError(f"{name}= stands twice; name all that the key is good for in one, with commas")
        bounds[name] = value
    return bounds


def _indexes(names: str) -> frozenset[str]:
    indexes = frozenset(names.split(","))
    if not all(map(is_index_name, indexes)):
        raise ValueError("index= should name indexes: small letters, digits and dashes, with commas between them")
    return indexes


def _namespace(word: str) -> str:
    try:
        name = urllib.parse.unquote(word, errors="strict")
        if not name:
            raise ValueError(f"the namespace should be a name; the default one is {DEFAULT_ALIAS}")
        return check_namespace(name)
    except UnicodeDecodeError:
        raise ValueError("the namespace should be UTF-8, percent-encoded") from None
    except InvalidArgument as error:
        raise ValueError(error.message) from None


def _per_second(rate: str) -> float:
    matched = _RATE.fullmatch(rate)
    if not matched or not float(matched[1]):
        raise ValueError("the rate should be queries in a time, such as 50/s, 600/min or 1000/h")
    return float(matched[1]) / _SECONDS[matched[2]]
