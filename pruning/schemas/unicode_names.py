"""Names in one Unicode form, so that they can be compared."""

from __future__ import annotations

import unicodedata


def compose(name: str) -> str:
    """The name with composed letters (NFC); macOS decomposes those of files.

    >>> len("cafe\u0301"), len(compose("cafe\u0301"))
    (5, 4)
    """
    return unicodedata.normalize("NFC", name)
