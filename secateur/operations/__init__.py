"""One flow for each operation of the service."""
