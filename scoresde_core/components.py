"""Components are attrs classes: their fields, validators and docstrings are their schema, command line and help.

    langevin[snr=0.16,n_steps=2]        a component with parameters
    pc[predictor=ddim[eta=0.5]]         a parameter may itself be a component
    npz[path='a,b[1].npz']              text in single or double quotes is literal; double a quote inside it

Text that would be read as another value needs quotes too: ``key='12'``, ``key='true'``, ``key='inf'``.
Values are checked strictly (no 2.7 for an integer, no "yes" for a number).
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from .errors import UsageError, near_misses

_SPEC = re.compile(r"(?P<name>[A-Za-z0-9_.:/-]++)\s*+(?:\[(?P<params>.*)\])?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INFINITE = re.compile(r"[+-]?\.?(inf|Inf|INF)")
_QUOTED = re.compile(r"'((?:[^']|'')*)'|\"((?:[^\"]|\"\")*)\"", re.DOTALL)
_WORDS = {word: value for value, words in
          ((True, "true yes on"), (False, "false no off"), (None, "null")) for each in words.split()
          for word in (each, each.capitalize(), each.upper())} | {"~": None, "": None}  # fmt: skip
"""The constants of YAML."""
HANDED = "handed"
"""Marks a field that the maker of the component fills in, which is no parameter."""
_hints = lru_cache(maxsize=1024)(get_type_hints)
Convert = Callable[[type, Any], Any]
"""Turns a value into an instance of a contract class, for a parameter that is itself a component."""


def param(default: Any = attrs.NOTHING, help: str = "", check: Any = None, **more: Any) -> Any:
    """An attrs field with a help text and validators, as in ``param(0.16, "step size", attrs.validators.gt(0))``."""
    return attrs.field(default=default, validator=check, metadata={"help": help}, **more)


@attrs.frozen
class Spec:
    """A component as typed: its name and its unchecked parameters."""

    name: str
    params: dict[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        inside = ",".join(f"{key}={_text(value)}" for key, value in self.params.items())
        return f"{self.name}[{inside}]" if inside else self.name


@attrs.frozen
class Parameter:
    """A parameter of a component; ``default`` is ... if it follows from the other parameters."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def type_name(self) -> str:
        """The type as text."""
        return _type_name(self.type)

    @property
    def takes_list(self) -> bool:
        """Whether a list is one value of this parameter rather than several values to sweep over."""
        members = get_args(self.type) if _is_union(self.type) else (self.type,)
        return any((get_origin(m) or m) in (list, tuple, Sequence) for m in members)


def parse(text: str) -> Spec:
    """Parse ``name[key=value,...]``; see :func:`parse_value` for the values."""
    match = _SPEC.fullmatch(text.strip())
    if not match:
        raise UsageError(f"cannot read {text!r}: write name or name[key=value,key=value]")
    params: dict[str, Any] = {}
    for part in split(match["params"] or ""):
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UsageError(f"cannot read {part.strip()!r} in {text!r}: write key=value")
        if key.strip() in params:
            raise UsageError(f"parameter {key.strip()!r} is given twice in {text!r}")
        params[key.strip()] = parse_value(value.strip())
    return Spec(match["name"], params)


def split(text: str) -> list[str]:
    """Split ``text`` at the commas outside brackets and quotes; empty text has no parts."""
    parts, depth, start, at = [], 0, 0, 0
    opens = True  # whether a quote here opens a quoted value; inside a word it is a letter
    while at < len(text) and 0 <= depth < 50:
        character = text[at]
        if opens and (quoted := _QUOTED.match(text, at)):
            at, opens = quoted.end(), False
            continue
        if opens and character in "'\"":
            raise UsageError(f"a quote is not closed in {text!r}")
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        opens = character in "[({=," or (opens and character.isspace())
        at += 1
    if depth:
        raise UsageError(f"unbalanced brackets or over 50 levels in {text!r}: quote a value that contains brackets")
    return [*parts, text[start:]] if parts or text[start:].strip() else []


def parse_value(text: str) -> Any:
    """Parse a number, boolean, ``null``, list ``[a,b]``, mapping ``{key=value}``, quoted text or word."""
    if text in _WORDS:
        return _WORDS[text]
    if _NUMBER.fullmatch(text) and len(text) < 400:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", ""))
    if text.startswith("[") and text.endswith("]"):
        return [parse_value(part.strip()) for part in split(text[1:-1])]
    if text.startswith("{") and text.endswith("}"):
        return parse(f"mapping[{text[1:-1]}]").params
    if not text.startswith(("'", '"')):
        return text
    if not _QUOTED.fullmatch(text):
        raise UsageError(f"cannot read {text!r}: end a quoted value with its quote, and double a quote inside it")
    return text[1:-1].replace(text[0] * 2, text[0])


def parameters(cls: type) -> list[Parameter]:
    """The parameters of a component class, in order."""
    if not attrs.has(cls):
        return []
    hints = _hints(cls)
    found = []
    for field in attrs.fields(cls):
        if field.init and HANDED not in field.metadata:
            default: Any = field.default
            if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
                default = ... if default.takes_self else default.factory()
            kind, help = hints.get(field.name, Any), field.metadata.get("help", "")
            found.append(Parameter(field.alias or field.name, kind, default, help))
    return found


def build(cls: type, params: dict[str, Any], label: str, convert: Convert | None = None, **handed: Any) -> Any:
    """Make an instance of ``cls``, ``label`` in errors; ``convert`` makes components, ``handed`` are no parameters."""
    known = {parameter.name: parameter for parameter in parameters(cls)}
    values = {}
    for name, value in params.items():
        if name not in known:
            raise UsageError(f"{label} has no parameter {name!r}.{near_misses(name, list(known))}")
        if value == "" != known[name].default:  # it would be the working folder where it is a path
            raise UsageError(f"{label}: {name} is empty: give a value, or leave it out")
        try:
            values[name] = _structure(known[name].type, value, convert)
        except (TypeError, ValueError, OverflowError) as error:
            why = f" ({_message(error)})" if _message(error) else ""
            raise UsageError(f"{label}: {name} must be {known[name].type_name}, got {value!r}{why}") from error
    missing = [p.name for p in known.values() if p.default is attrs.NOTHING and p.name not in values]
    if missing:
        raise UsageError(f"{label} needs {', '.join(missing)}: write {label}[{missing[0]}=...]")
    try:
        return cls(**values, **handed)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{label}: {_message(error)}") from error


def _structure(kind: Any, value: Any, convert: Convert | None) -> Any:
    if kind is Any:
        return value
    if _is_union(kind):
        for member in get_args(kind):
            try:
                return _structure(member, value, convert)
            except (TypeError, ValueError):
                continue
        raise TypeError
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise ValueError
    if origin in (tuple, list, Sequence):
        if not isinstance(value, list | tuple):
            raise TypeError
        members = arguments if origin is tuple and arguments[-1] is not Ellipsis else arguments[:1] * len(value)
        if len(members) != len(value):
            raise ValueError
        return tuple(_structure(m, v, convert) for m, v in zip(members, value, strict=True))
    if kind is float and isinstance(value, float) and math.isnan(value):
        raise ValueError
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("beyond 64 bits")
        return value
    if convert is not None and isinstance(value, str | dict | Spec):
        return convert(kind, value)
    raise TypeError


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _type_name(kind: Any) -> str:
    if _is_union(kind):
        return " or ".join(_type_name(member) for member in get_args(kind))
    if get_origin(kind) is Literal:
        return " or ".join(repr(value) for value in get_args(kind))
    if kind is type(None):
        return "null"
    if get_origin(kind):
        return str(kind).replace("typing.", "")
    return getattr(kind, "__name__", str(kind))


def _message(error: Exception) -> str:
    """The message of an error; attrs' validators put it first among several arguments."""
    return str(error.args[0]) if error.args else ""


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}={_text(item)}" for key, item in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value)
    quote = '"' if "'" in text and '"' not in text else "'"
    return text if _is_plain(text) else quote + text.replace(quote, quote * 2) + quote


def _is_plain(text: str) -> bool:
    try:
        return text == text.strip() and split(text) == [text] and parse_value(text) == text
    except UsageError:
        return False
