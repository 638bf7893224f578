"""Wire documents, free of torch: the request (job, recipe) and the result (report)."""
