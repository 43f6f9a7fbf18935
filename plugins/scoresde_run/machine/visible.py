"""Text of others on a terminal, which would obey the control characters in it."""

import re
from typing import Any

_OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


def visible(text: str) -> str:
    """``text`` with escapes for the characters that a terminal would obey, as in a name or an error of others."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


class Visible:
    """A stream that writes :func:`visible` text; ``raw`` is for the program's own codes, as of a progress bar."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        """Write ``text``."""
        return self.raw.write(visible(text))  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)
