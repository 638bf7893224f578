"""Listings, page after page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from secateur.answers import Answer
from secateur.flow import Emit, Reply, Request, Stream, call, decode
from secateur.wire import Page

A = TypeVar("A", bound=Answer)


def pages(path: str, item: type[A], filters: Mapping[str, str | int | None]) -> Stream[A]:
    """Yield every item of a listing; the next page is fetched when the last is used up."""
    params = {name: value for name, value in filters.items() if value is not None}
    while True:
        reply: Reply = yield from call(Request(method="GET", path=path, params=params))
        page = reply.parse(Page)
        for row in page.data:
            yield Emit(decode(item, row))
        if not page.has_more or page.next_cursor is None:
            return
        params["cursor"] = page.next_cursor
