"""The dashboard: a page and its files, from this origin only."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from api.errors import Problem

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent.parent / "web"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self'; script-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/")
def show_index() -> FileResponse:
    """Send the page."""
    return _send_file("index.html")


@router.get("/assets/{name:path}")
def show_asset(name: str) -> FileResponse:
    """Send a file of the page."""
    return _send_file(name)


def _send_file(name: str) -> FileResponse:
    path = FOLDER / name
    if (
        "\x00" in name
        or path.suffix not in TYPES
        or not path.resolve().is_relative_to(FOLDER)
        or not path.is_file()
    ):
        raise Problem(404, "not_found", "no such page")
    return FileResponse(path, headers=HEADERS, media_type=TYPES[path.suffix])
