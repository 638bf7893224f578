"""Files that operating systems and tools leave in folders, which are no part of a dataset."""

from __future__ import annotations

DROPPINGS = {
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "$recycle.bin",
    "system volume information",
    "@eadir",
}
"""The names of such files and folders, in lower case; hidden ones begin with a dot."""


def is_dropping(path: str) -> bool:
    """Whether a path, with `/` between its parts, is left behind by a system or a tool.

    >>> [is_dropping(path) for path in ("a/.DS_Store", "a/Thumbs.db", "a/b.png")]
    [True, True, False]
    """
    return any(part.startswith(".") or part.lower() in DROPPINGS for part in path.split("/"))
