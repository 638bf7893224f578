"""Fixtures that every test may use: real servers."""

from servers import postgresql, s3, s3_server, valkey, valkey_shared

__all__ = ["postgresql", "s3", "s3_server", "valkey", "valkey_shared"]
