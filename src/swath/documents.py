"""Which metadata files does a commit write, or would one have written?"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from swath.committing import pending_bytes
from swath.errors import FormatError
from swath.labels import Labels
from swath.metadata import (
    METADATA,
    Facts,
    attributes_of_others,
    decode_beside,
    decode_group,
    decode_metadata,
    encode_group,
    encode_metadata,
    is_group,
)
from swath.storage import Folder
from swath.store import Store
from swath.writing import Part


def new_files(parts: Sequence[Part], labels: Labels) -> dict[str, bytes]:
    """The metadata of a new store by itself, or of a new group and its arrays."""
    others = labels.attributes
    members = {part.name: encode_metadata(part.facts, others.get(part.name, {})) for part in parts}
    if "" in members:
        return {METADATA: members[""]}
    return _group_files(encode_group(members, others.get("", {}), labels.beside), members)


def longer_files(parts: Sequence[Part], stores: Mapping[str, Store]) -> dict[str, bytes]:
    """The same of a store, or of a group and its arrays, to which rows are appended."""
    members = {
        part.name: encode_metadata(part.facts, attributes_of_others(stores[part.name].own_metadata())) for part in parts
    }
    if "" in members:
        return {METADATA: members[""]}
    before = next(iter(stores.values())).encoded
    beside = decode_beside(before)
    group = encode_group({**members, **beside}, attributes_of_others(before), beside)
    return _group_files(group, members)


def _group_files(group: bytes, members: Mapping[str, bytes]) -> dict[str, bytes]:
    return {METADATA: group} | {f"{name}/{METADATA}": encoded for name, encoded in members.items()}


def pending_facts(place: Folder) -> dict[str, Facts]:
    """What an interrupted ingest into a place was to make, by name."""
    encoded = pending_bytes(place)
    with contextlib.suppress(FormatError):
        members = decode_group(encoded, place.url) if is_group(encoded) else {"": encoded}
        return {name: decode_metadata(each, place.url) for name, each in members.items()}
    return {}
