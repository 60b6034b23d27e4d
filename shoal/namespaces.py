"""Namespaces: documents of an index that are searched, counted and changed as if there were no others.

Inside of an index, ids of a namespace stand behind its name, between two characters that no id may begin with and no
name may hold; ids of the default namespace stand alone. Clients see neither. That character comes after all others, so
that the ids of namespaces come after those of the default one, and ids of one namespace lie together.
"""

from shoal.errors import InvalidArgument

DEFAULT = ""
"""The namespace of whoever names none, and of all that a build reads from a source."""
DEFAULT_ALIAS = "__default__"
"""Another name of it, where an empty one cannot be written."""
MARK = "\U0010ffff"
"""Stands before and behind the name of a namespace; the last code point of Unicode, which is no character."""
MAX_NAMESPACE_BYTES = 256
"""Bytes of a name in UTF-8, at most."""
_SHOWN_CHARACTERS = 64
"""Characters of a name that a message repeats."""


def check_namespace(name: str, param: str = "namespace") -> str:
    """Return the name of a namespace, "" for the default one.

    Args:
        name: As a client gives it.
        param: The field that holds it.

    Raises:
        InvalidArgument: It is too long, or holds what a name may not.
    """
    if name in (DEFAULT, DEFAULT_ALIAS):
        return DEFAULT
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{param} should be Unicode text, without lone surrogates", param=param) from None
    if size > MAX_NAMESPACE_BYTES:
        raise InvalidArgument(
            f"{param} should be at most {MAX_NAMESPACE_BYTES} bytes of UTF-8, not {size}", param=param
        )
    if name.isspace() or not name.isprintable():
        shown = ascii(name[:_SHOWN_CHARACTERS])
        raise InvalidArgument(
            f"{param} should be printable characters, not all of them spaces; {shown} is not", param=param
        )
    return name


def qualified(namespace: str, id_: str, param: str = "id") -> str:
    """Return an id as it is inside of the index; also what ids begin with.

    Args:
        namespace: That was checked.
        id_: As clients see it.
        param: The field that holds it.

    Raises:
        InvalidArgument: No id begins with it: it would lead into another namespace.
    """
    if id_.startswith(MARK):
        raise InvalidArgument(f"{param} should not begin with U+10FFFF, which is no character", param=param)
    return prefix_of(namespace) + id_


def prefix_of(namespace: str) -> str:
    """Return what the ids of a namespace begin with inside of the index; nothing for the default one."""
    return f"{MARK}{namespace}{MARK}" if namespace else ""


def own_id(id_: str) -> str:
    """Return an id, or a key that is kept as ids are, as clients see it."""
    return id_[1:].partition(MARK)[2] if id_.startswith(MARK) else id_


def namespace_of(id_: str) -> str:
    """Return the namespace of an id as it is inside of the index."""
    return id_[1:].partition(MARK)[0] if id_.startswith(MARK) else DEFAULT
