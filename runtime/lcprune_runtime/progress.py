"""Loops that may take some seconds tell how far they are to whoever shows it; without `shown_by`, to nobody."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """What a loop goes through: something with a length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


Show = Callable[[Items[Any], str], Iterable[Any]]
"""Gives the items one by one, and shows how many are done of what is described."""

_show: ContextVar[Show | None] = ContextVar("show", default=None)


def tracked(items: Items[T], what: str) -> Iterable[T]:
    """`items`, one by one; `what` describes the loop, such as ``exporting sub-models``."""
    show = _show.get()
    return items if show is None else show(items, what)


@contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Within, `show` gets the items of every loop that is `tracked`."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)
