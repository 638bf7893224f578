"""The picture of an image file: its main one of several, turned as the camera was held.

Free of torch.
"""

from __future__ import annotations

from typing import cast

from PIL import ExifTags, Image, TiffImagePlugin

from pruning.errors import DataError

UPRIGHT = 1
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn that puts an image upright, by the EXIF orientation of its file."""
SIDEWAYS = 5
"""The first of the orientations in which height and width are exchanged."""
NEW_SUBFILE_TYPE = 254
MOST_PAGES = 16


def check_frames(image: Image.Image, name: str) -> None:
    """Raise `DataError` for an animation, or for a file of several pages.

    The first picture of a JPEG that holds others (MPO: a preview, or the other eye) is its main
    one; so is the first page of a TIFF whose others are smaller versions of it.
    """
    if not getattr(image, "is_animated", False) or image.format == "MPO":
        return
    if image.format != "TIFF":
        raise DataError(f"{name}: an animation; images have one frame")
    tiff = cast(TiffImagePlugin.TiffImageFile, image)
    if tiff.n_frames > MOST_PAGES:
        raise DataError(f"{name}: {tiff.n_frames} pages; images have one")
    for page in range(1, tiff.n_frames):
        tiff.seek(page)
        if not tiff.tag_v2.get(NEW_SUBFILE_TYPE, 0) & 1:
            raise DataError(f"{name}: {tiff.n_frames} pages; images have one")
    tiff.seek(0)


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened file, 1 to 8; 1 where it says none, or nonsense.

    Pillow turns TIFF files itself.
    """
    if image.format == "TIFF":
        return UPRIGHT
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # a camera's broken EXIF block leaves the picture readable
        return UPRIGHT
    return orientation if orientation in TURNS else UPRIGHT


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned from this orientation; itself where it is upright."""
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def find_upright_size(image: Image.Image) -> tuple[int, int]:
    """The width and height that an opened file has when it is turned upright."""
    width, height = image.size
    return (height, width) if read_orientation(image) >= SIDEWAYS else (width, height)
