"""HTTP as such: bodies, forms, files, pointers into documents, the envelope of every request."""
