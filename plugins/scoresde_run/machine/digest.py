"""Digests of stored records, by which a change after they were written is noticed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"
_SEAL = re.compile(rb"<!-- sha256 ([0-9a-f]{64}) -->\n$")


def digest_of(record: Mapping[str, Any]) -> str:
    """The sha256 of a record of plain data but its entry ``digest``, whatever the order of its entries."""
    content = {name: value for name, value in record.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def is_changed(record: Mapping[str, Any]) -> bool:
    """Whether a record has a digest, and another content than when it was written."""
    return DIGEST in record and record[DIGEST] != digest_of(record)


def sealed(page: bytes) -> bytes:
    """An HTML page with the digest of its content in a comment at the end."""
    return page + f"<!-- sha256 {hashlib.sha256(page).hexdigest()} -->\n".encode()


def is_sealed(page: bytes) -> bool | None:
    """Whether the digest at the end of a page is that of its content; None if there is none."""
    seal = _SEAL.search(page[-100:])
    if seal is None:
        return None
    return hashlib.sha256(page[: -len(seal[0])]).hexdigest() == seal[1].decode()
