"""The base of contracts, with methods that follow from others and must not be overridden."""

from abc import ABC
from collections.abc import Callable
from inspect import getattr_static
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def derived(instead: str) -> Callable[[F], F]:
    """Mark a method of a :class:`Contract` that no subclass may override; ``instead`` says why and what to override.

    Some samplers and losses use what it follows from instead: an override would change the results of others alone.
    """

    def mark(method: F) -> F:
        method.__derived__ = instead  # type: ignore[attr-defined]
        return method

    return mark


class Contract(ABC):  # noqa: B024  # its subclasses have the abstract methods
    """Base of a contract: defining a class that overrides a :func:`derived` method is a ``TypeError``."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__mro__:
            for name, method in vars(base).items():
                instead = getattr(method, "__derived__", None)
                if instead is not None and getattr_static(cls, name) is not method:
                    raise TypeError(f"{cls.__qualname__} must not override {base.__name__}.{name}: {instead}")
