"""Digests of stored records, by which a change after they were written is noticed."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"
SEAL = "seal"  # the entry of an index for its digest; ``digest`` is there that of the weights of a model
_SEALED = re.compile(rb"(?:<!--|#) sha256 ([0-9a-f]{64})(?: -->)?\n$")


def digest_of(record: Mapping[str, Any], entry: str = DIGEST) -> str:
    """The sha256 of a record of plain data but its ``entry`` for the digest, whatever the order of its entries."""
    content = {name: value for name, value in record.items() if name != entry}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def of_tensors(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """The digest of a file of tensors (on the CPU) and its metadata, but the entry ``digest`` of these."""
    about = {name: text for name, text in metadata.items() if name != DIGEST}
    found = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].contiguous().numpy().data)
    return found.hexdigest()


def is_changed(record: Mapping[str, Any], entry: str = DIGEST) -> bool:
    """Whether a record has a digest, and another content than when it was written."""
    return entry in record and record[entry] != digest_of(record, entry)


def sealed(page: bytes, comment: str = "<!-- {} -->") -> bytes:
    """A document with the digest of its content in a ``comment`` at the end, by default that of HTML."""
    return page + comment.format(f"sha256 {hashlib.sha256(page).hexdigest()}").encode() + b"\n"


def is_sealed(page: bytes) -> bool | None:
    """Whether the digest at the end of a document is that of its content; None if there is none."""
    if (seal := _SEALED.search(page[-100:])) is None:
        return None
    return hashlib.sha256(page[: -len(seal[0])]).hexdigest() == seal[1].decode()
