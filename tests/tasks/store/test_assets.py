"""Models, keys and the catalogue in the store, on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.store import Store, assets, new_id
from tasks.store.errors import InUseError, NotFoundError
from tasks.store.tables import Model
from tests.support.job_world import change, create, together


def model(store: Store, project: str = "default") -> str:
    with store.write() as session:
        return assets.add(
            session,
            Model(
                id=new_id("mdl"),
                project=project,
                name="m",
                architecture="mlp",
                kwargs={"hidden": [3]},
                normalize=None,
                classes=None,
                sha256="0" * 64,
                size_bytes=2**40,
                parameters=2**40,
                prunable=1,
                artifact="models/x",
            ),
        ).id


def test_a_model_in_use_stays(store: Store) -> None:
    used, rewound, free = model(store), model(store), model(store)
    job = create(store, model_id=used, rewind_model_id=rewound)
    with store.write() as session:
        for id in (used, rewound):
            with pytest.raises(InUseError) as caught:
                assets.remove(session, assets.get(session, Model, "default", id))
            assert caught.value.job_id == job.id
        assert assets.remove(session, assets.get(session, Model, "default", free)) == "models/x"
    change(store, job.id, status="failed")
    with store.write() as session:
        assets.remove(session, assets.get(session, Model, "default", used))
    with store.read() as session:
        assert session.get(Model, used) is None
        assert assets.get(session, Model, "default", rewound).size_bytes == 2**40
        with pytest.raises(NotFoundError):
            assets.get(session, Model, "other", rewound)
        assert [
            row.id for row in assets.read_page(session, Model, "default", limit=5, cursor=None).data
        ] == [rewound]


def test_keys_are_found_by_their_secret_and_not_kept(store: Store) -> None:
    with store.read() as session:
        assert not assets.has_keys(session)
    with store.write() as session:
        assets.add_key(
            session, id="key_1", project="p", name="n", secret="open sesame", scopes=["read"]
        )
    with store.read() as session:
        assert assets.has_keys(session)
        key = assets.find_key(session, "open sesame")
        assert key is not None
        assert (key.project, key.scopes) == ("p", ["read"])
        assert "sesame" not in str(vars(key))
        for wrong in ("", "open", "open sesame ", key.sha256):
            assert assets.find_key(session, wrong) is None


def test_the_catalogue_is_replaced_whole(store: Store) -> None:
    with store.read() as session:
        assert assets.read_catalogue(session) is None
    digests = set()
    documents: list[dict[str, Any]] = [
        {"criteria": []},
        {"criteria": [{"name": "ü"}]},
        {"criteria": [{"name": "ü"}]},
    ]
    for document in documents:
        with store.write() as session:
            assets.publish_catalogue(session, document)
        with store.read() as session:
            stored = assets.read_catalogue(session)
        assert stored is not None
        assert stored[0] == document
        digests.add(stored[1])
    assert len(digests) == 2


def test_two_workers_that_boot_at_once_both_publish(store: Store) -> None:
    def publish() -> None:
        with store.write() as session:
            assets.publish_catalogue(session, {"criteria": []})

    assert together([publish] * 4) == [None] * 4
