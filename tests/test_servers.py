"""The servers of the tests are what they are said to be."""

from pathlib import Path

import pytest
from obstore.exceptions import AlreadyExistsError, PreconditionError
from servers import NAMES, serve


@pytest.mark.parametrize("name", NAMES)
def test_conditions(name: str, tmp_path: Path) -> None:
    with serve(name, tmp_path) as server:
        store = server.store()
        first = store.put("key", b"first", mode="create")
        with pytest.raises(AlreadyExistsError):
            store.put("key", b"second", mode="create")
        store.put("key", b"second", mode={"e_tag": first["e_tag"]})
        with pytest.raises(PreconditionError):
            store.put("key", b"third", mode={"e_tag": first["e_tag"]})
        assert bytes(store.get("key").bytes()) == b"second"
