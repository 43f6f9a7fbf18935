"""What a disk may hold after the power failed: what was flushed, and any prefix of what was not.

A flushed file keeps its content, a flushed folder its entries; nothing else is sure. Operations are replayed in their
order: all of the flushed ones, and of the others the first few, or those that change entries alone (a file then exists
without its content).
"""

import shutil
from pathlib import Path

import attrs


@attrs.define(eq=False)
class Node:
    """A file with its content or a folder with its entries (else None): as they were first, and as they are now."""

    first: bytes = b""
    first_entries: dict | None = None
    content: bytes = attrs.field(init=False)
    entries: dict | None = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.content = self.first
        self.entries = None if self.first_entries is None else dict(self.first_entries)

    @classmethod
    def read(cls, path: Path):
        if path.is_dir():
            return cls(first_entries={each.name: cls.read(each) for each in path.iterdir()})
        return cls(path.read_bytes())

    def at(self, path: str):
        """The node at a relative path, None if there is none."""
        node = self
        for name in [] if path == "." else path.split("/"):
            node = None if node is None or node.entries is None else node.entries.get(name)
        return node


@attrs.frozen(eq=False)
class Change:
    """A change of ``node`` at a time: to ``content``, or of its entries by ``links`` (name to node or None)."""

    time: int
    node: Node
    content: bytes | None = None
    links: dict | None = None


class Disk:
    """A folder ``start`` and the trace of what a command did there; :meth:`after` makes what the power may leave."""

    def __init__(self, start: Path, trace: list) -> None:
        self.root, self.changes, self.flushed = Node.read(start), [], []
        for time, operation in enumerate(trace):
            self._follow(time, *operation)

    def unsure(self, count: int) -> list:
        """The changes that are not flushed after ``count`` operations."""
        sure = {node: time for time, node in self.flushed if time < count}
        return [each for each in self.changes if each.time < count and sure.get(each.node, -1) < each.time]

    def after(self, count: int, folder: Path, lucky: list) -> None:
        """Make ``folder`` what ``count`` operations left; of those not flushed, the ``lucky`` ones."""
        lost = {id(each) for each in self.unsure(count)} - {id(each) for each in lucky}
        contents, entries = {}, {}
        for change in self.changes:
            if change.time >= count or id(change) in lost:
                continue
            if change.links is None:
                contents[change.node] = change.content
                continue
            here = entries.setdefault(change.node, dict(change.node.first_entries))
            for name, node in change.links.items():
                here.pop(name, None)
                here |= {} if node is None else {name: node}

        def write(node, path):
            if node.entries is None:
                path.write_bytes(contents.get(node, node.first))
                return
            path.mkdir()
            for name, child in entries.get(node, node.first_entries).items():
                write(child, path / name)

        shutil.rmtree(folder, ignore_errors=True)
        write(self.root, folder)

    def outcomes(self, count: int):
        """Lists of lucky changes after ``count`` operations: each prefix, and the changes of entries alone."""
        unsure = self.unsure(count)
        links = [each for each in unsure if each.links is not None]
        return [unsure[:number] for number in range(len(unsure) + 1)] + ([links] if links != unsure else [])

    def _follow(self, time, kind, path, *more):
        parent, _, name = path.rpartition("/")
        here, node = self.root.at(parent or "."), self.root.at(path)
        if kind == "open" and node is None:
            self._link(time, here, {name: Node()})
        elif kind == "open" and more[0]:
            self._fill(time, node, b"")
        elif kind == "write":
            offset, data = more
            before = node.content.ljust(offset, b"\0")
            self._fill(time, node, before[:offset] + data + before[offset + len(data) :])
        elif kind == "truncate":
            self._fill(time, node, node.content[: more[0]].ljust(more[0], b"\0"))
        elif kind == "mkdir":
            self._link(time, here, {name: Node(first_entries={})})
        elif kind in ("unlink", "rmdir"):
            self._link(time, here, {name: None})
        elif kind == "rename":
            old, _, old_name = more[0].rpartition("/")
            assert old == parent, "a rename from one folder to another"
            self._link(time, here, {old_name: None, name: here.entries[old_name]})
        elif kind == "fsync":
            self.flushed.append((time, node))

    def _link(self, time, node, links):
        self.changes.append(Change(time, node, links=links))
        for name, child in links.items():
            node.entries.pop(name, None)
            node.entries |= {} if child is None else {name: child}

    def _fill(self, time, node, content):
        self.changes.append(Change(time, node, content))
        node.content = content
