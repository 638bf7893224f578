"""Files fetched by URL, `https` or `s3`, checked against a digest, and never from inside the
network.

Every address that a name resolves to is checked, and the connection goes to one of these, so that a
name cannot point elsewhere the second time it is asked; the same again after every redirect.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from tasks.artifacts import CHUNK, MissingArtifactError, S3Artifacts

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
TIMEOUT_S = 60.0
"""Seconds without a byte after which a source counts as away."""
LONGEST_S = 6 * 3600.0
"""Seconds after which a file that still arrives is given up, so that others have their turn."""
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
"""The IPv6 addresses behind which a gateway reaches IPv4 addresses, private ones too."""


class SourceError(Exception):
    """A source that cannot be fetched, with a stable code; `retryable` where it may come back."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Fetches files within limits."""

    max_bytes: int
    private: bool = False
    """Whether addresses inside the network, and `http`, are allowed."""
    s3_endpoint: str | None = None
    own_bucket: str | None = None
    """The bucket of the service's own artifacts, which is not read."""
    longest_s: float = LONGEST_S

    def fetch(
        self, url: str, sha256: str, target: Path, advance: Callable[[], None] = lambda: None
    ) -> int:
        """Write the file to `target` and return its size in bytes.

        `advance` is called after every part, and may raise. Raises `SourceError`: `source_refused`,
        `source_unavailable` (retryable), `source_too_large` or `digest_mismatch`.
        """
        digest = hashlib.sha256()
        size = 0
        until = time.monotonic() + self.longest_s
        with target.open("wb") as file, closing(self._read(url)) as parts:
            for part in parts:
                size += len(part)
                if size > self.max_bytes:
                    raise self._refuse_size(size)
                digest.update(part)
                file.write(part)
                if time.monotonic() > until:
                    message = f"{url}: {size} bytes in {self.longest_s:g} s; it takes too long"
                    raise SourceError("source_unavailable", message, retryable=True)
                advance()
        if digest.hexdigest() != sha256.lower():
            raise SourceError(
                "digest_mismatch",
                f"the {size} bytes of {url} have the sha256 {digest.hexdigest()}, not {sha256}",
            )
        return size

    def _read(self, url: str) -> Generator[bytes, None, None]:
        place = urlsplit(url)
        if place.scheme == "s3":
            yield from self._read_object(url, place)
            return
        try:
            yield from self._read_pages(url)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise SourceError("source_unavailable", f"{url}: {reason}", retryable=True) from None
        except ValueError as error:  # a port that is not a number, a name that is too long
            raise SourceError("source_refused", f"{url}: {error}") from None

    def _read_object(self, url: str, place: SplitResult) -> Generator[bytes, None, None]:
        """Read an object with the credentials and at the endpoint of the worker."""
        if place.netloc == self.own_bucket:
            raise SourceError("source_refused", f"{url}: the service keeps its own files there")
        try:
            bucket = S3Artifacts(f"s3://{place.netloc}", self.s3_endpoint)
            yield from bucket.stream(place.path.lstrip("/"))
        except MissingArtifactError:
            raise SourceError("source_unavailable", f"{url}: not found", retryable=True) from None
        except OSError as error:
            raise SourceError("source_unavailable", f"{url}: {error}", retryable=True) from None

    def _read_pages(self, url: str) -> Generator[bytes, None, None]:
        """Read what a web server answers, after at most `MOST_REDIRECTS` redirects."""
        for _ in range(MOST_REDIRECTS + 1):
            with closing(self._connect(url)) as connection:
                place = urlsplit(url)
                path = (place.path or "/") + (f"?{place.query}" if place.query else "")
                headers = {"User-Agent": "secateur", "Accept-Encoding": "identity"}
                connection.request("GET", path, headers=headers)
                with connection.getresponse() as response:
                    if response.status not in REDIRECTS:
                        yield from self._read_body(response)
                        return
                    url = urljoin(url, response.headers.get("Location", ""))
        raise SourceError("source_refused", f"{url}: more than {MOST_REDIRECTS} redirects")

    def _read_body(self, response: http.client.HTTPResponse) -> Generator[bytes, None, None]:
        if response.status != http.client.OK:
            raise OSError(f"the server answers {response.status} {response.reason}")
        announced = response.length
        if announced is not None and announced > self.max_bytes:
            raise self._refuse_size(announced)
        received = 0
        while part := response.read(CHUNK):
            received += len(part)
            yield part
        if announced is not None and received < announced:
            raise OSError(f"the connection ended after {received} of {announced} bytes")

    def _connect(self, url: str) -> http.client.HTTPConnection:
        """Open a connection to one of the addresses of a URL, all of which are allowed."""
        place = urlsplit(url)
        if place.scheme != "https" and not (self.private and place.scheme == "http"):
            raise SourceError("source_refused", f"{url}: only https and s3 are fetched")
        if not place.hostname or place.username is not None:
            raise SourceError("source_refused", f"{url}: a URL with a host and without a user")
        secure = place.scheme == "https"
        port = place.port or (443 if secure else 80)
        opened = self._open(url, place.hostname, port)
        if secure:
            try:
                context = ssl.create_default_context()
                opened = context.wrap_socket(opened, server_hostname=place.hostname)
            except BaseException:
                opened.close()
                raise
        # The kind decides whether the header Host names the port, which signed URLs depend on.
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(place.hostname, port, timeout=TIMEOUT_S)
        connection.sock = opened
        return connection

    def _open(self, url: str, host: str, port: int) -> socket.socket:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if not self.private:
            for *_, address in resolved:
                if not is_public(str(address[0])):
                    message = f"{url}: {host} is at the private address {address[0]}"
                    raise SourceError("source_refused", message)
        failure: OSError = OSError(f"{host} has no address")
        for *_, address in resolved:
            try:
                return socket.create_connection((str(address[0]), port), TIMEOUT_S)
            except OSError as error:
                failure = error
        raise failure

    def _refuse_size(self, size: int) -> SourceError:
        return SourceError(
            "source_too_large", f"{size} bytes or more; at most {self.max_bytes} are accepted"
        )


def is_public(address: str) -> bool:
    """Return whether an address is one of the internet, and not one inside a network.

    >>> [is_public(text) for text in ("8.8.8.8", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
    [True, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None:
            return False
        if any(ip in network for network in TRANSLATED):
            return False
    return ip.is_global and not ip.is_multicast
