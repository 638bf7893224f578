"""The database is the truth: models, datasets, jobs, events, artifacts, outbox. Free of torch."""

from tasks.store.engine import Store, db_now, new_id

__all__ = ["Store", "db_now", "new_id"]
