"""The HTTP layer: bodies, forms, files, pointers into documents, the envelope of every request."""
