"""The names of a zip's entries, in the encoding they were written in. Free of torch.

A zip says of a name that it is UTF-8, or says nothing: then it may be UTF-8 nevertheless (macOS),
or in the encoding of the machine that packed it (Windows).
"""

from __future__ import annotations

import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence

from pruning.schemas.unicode_names import compose

UTF8_FLAG = 0x800
UNICODE_PATH = 0x7075
"""The extra field that holds the name in UTF-8, beside the checksum of the name it stands for."""
JAPANESE = ("HIRAGANA", "KATAKANA", "CJK", "FULLWIDTH", "IDEOGRAPHIC")
"""The first words of the Unicode names of the characters that a Japanese name is made of."""


def decode_names(entries: Sequence[zipfile.ZipInfo]) -> tuple[list[str], tuple[str, ...]]:
    """The names of the entries, composed (NFC), and a note where their encoding was guessed.

    Names without the flag of UTF-8 are all in one encoding: UTF-8 where all are valid, Shift-JIS
    where all that is not ASCII reads as Japanese, else Windows-1252 or code page 437, whichever
    gives more Latin letters.
    """
    bare_names = [_bare_name(entry) for entry in entries]
    encoding = _choose_encoding([bare for bare in bare_names if bare is not None])
    names = []
    example = None
    for entry, bare in zip(entries, bare_names, strict=True):
        name = _read_unicode_path(entry)
        if name is None and bare is not None:
            name = bare.decode(encoding)
            if not name.isascii() and example is None:
                example = name
        names.append(compose(entry.filename if name is None else name))
    if example is None or encoding == "utf-8":
        return names, ()
    return names, (
        f"the zip does not say how its names are encoded: they were read as {encoding}, as in "
        f"{example!r}; where that is wrong, pack the folder with a tool that writes UTF-8",
    )


def _bare_name(entry: zipfile.ZipInfo) -> bytes | None:
    """The bytes of a name without the flag of UTF-8; None with the flag."""
    if entry.flag_bits & UTF8_FLAG:
        return None
    return entry.orig_filename.encode("cp437").split(b"\0")[0]


def _read_unicode_path(entry: zipfile.ZipInfo) -> str | None:
    """The name in the extra field for it, if there is a valid one that belongs to this name."""
    bare = _bare_name(entry)
    extra = entry.extra
    while bare is not None and len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        content = extra[4 : 4 + size]
        if kind == UNICODE_PATH and size > 5 and content[0] == 1:
            (checksum,) = struct.unpack_from("<L", content, 1)
            if checksum == zlib.crc32(bare):
                try:
                    return content[5:].decode()
                except UnicodeDecodeError:
                    return None
        extra = extra[4 + size :]
    return None


def _choose_encoding(names: Sequence[bytes]) -> str:
    """The encoding in which all of these names read best.

    >>> _choose_encoding(["é".encode()]), _choose_encoding(["日本/ネコ".encode("cp932")])
    ('utf-8', 'cp932')
    >>> _choose_encoding(["café".encode("cp437")]), _choose_encoding(["café".encode("cp1252")])
    ('cp437', 'cp1252')
    """
    special = sorted({name for name in names if not name.isascii()})
    if _decodes(special, "utf-8"):
        return "utf-8"
    if _decodes(special, "cp932") and all(
        _is_japanese(part) for name in special for part in name.decode("cp932").split("/")
    ):
        return "cp932"
    counts = {
        encoding: sum(_count_latin(name.decode(encoding)) for name in special)
        for encoding in ("cp437", "cp1252")
        if _decodes(special, encoding)
    }
    return max(counts, key=lambda encoding: counts[encoding])


def _decodes(names: Sequence[bytes], encoding: str) -> bool:
    try:
        for name in names:
            name.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _is_japanese(part: str) -> bool:
    """Whether a folder or file has a plausible Japanese name.

    Letters of ASCII beside a Japanese character speak for another encoding: a European letter and
    the one that follows it happen to be a Japanese character.
    """
    stem = part.rpartition(".")[0] or part
    special = [character for character in stem if not character.isascii()]
    if not all(unicodedata.name(character, "").startswith(JAPANESE) for character in special):
        return False
    return not special or not any(character.isascii() and character.isalpha() for character in stem)


def _count_latin(name: str) -> int:
    """The number of Latin letters beyond ASCII."""
    return sum(
        not character.isascii()
        and character.isalpha()
        and unicodedata.name(character, "").startswith("LATIN")
        for character in name
    )
