"""File formats recognised by their first bytes. Free of torch."""

from __future__ import annotations

import struct

MAX_HEADER_BYTES = 16 * 2**20
"""Longest header of a safetensors file that is accepted."""


XZ = b"\xfd7zXZ\x00"
"""The first bytes of an xz file, in which compressed checkpoints are stored."""
OTHERS = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    XZ: "an xz file",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x93NUMPY": "a single array (.npy)",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB": "a MATLAB file",
    b"\xff\xd8": "a single image",
    b"\x89PNG": "a single image",
}
"""The formats that files are often sent in and that are not read, by their first bytes."""


def name_format(head: bytes) -> str | None:
    """The name of a format that is not read, by the first bytes of a file; None for others.

    >>> name_format(b"Rar!..."), name_format(b"hello")
    ('a RAR archive', None)
    """
    return next((name for mark, name in OTHERS.items() if head.startswith(mark)), None)


def is_safetensors(head: bytes) -> bool:
    """Whether a file with these first nine bytes claims to be safetensors: the length of its
    header, then `{`.

    Ask this before anything else: the length may look like another format's mark. A header of 640
    bytes begins with 80 02, as a pickle does.

    >>> is_safetensors(bytes([0x80, 0x02, 0, 0, 0, 0, 0, 0]) + b"{")
    True
    """
    if len(head) < 9:
        return False
    header_bytes = struct.unpack("<Q", head[:8])[0]
    return header_bytes <= MAX_HEADER_BYTES and head[8:9] == b"{"


def is_pickle(head: bytes) -> bool:
    """Whether a file begins as pickles of protocol 2 to 5 do.

    >>> import pickle
    >>> is_pickle(pickle.dumps(1)), is_pickle(b"PK")
    (True, False)
    """
    return head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}


def is_xz(head: bytes) -> bool:
    """Whether a file with these first bytes is an xz file.

    >>> import lzma
    >>> is_xz(lzma.compress(b"")), is_xz(b"PK")
    (True, False)
    """
    return head.startswith(XZ)
