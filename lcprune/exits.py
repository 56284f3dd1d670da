"""The exits of a network: their names, and the layer groups that are computed from one to the next."""

from collections.abc import Sequence

MAIN = "main"


def exit_names(count: int, sizes: Sequence[int] = ()) -> tuple[str, ...]:
    """``sub-model 1`` .. ``main``; with several sizes ``sub-model 1 at 64 px``, all exits of one size after another.

    Args:
        count: Number of exits.
        sizes: Input sizes in pixels, ascending; empty for one.
    """
    if not sizes:
        return (*(f"sub-model {k}" for k in range(1, count)), MAIN)
    return tuple(f"{name} at {size} px" for size in sizes for name in exit_names(count // len(sizes)))


def exit_label(name: str) -> str:
    """An exit as options name it: ``2`` for ``sub-model 2``, ``main``, ``2@96`` for ``sub-model 2 at 96 px``."""
    return name.removeprefix("sub-model ").replace(" at ", "@").removesuffix(" px")


def find_exit(label: str, names: Sequence[str]) -> int | None:
    """Index of the exit that an option names, among all exits, main last; None if there is none.

    Main of the largest size is ``main``, and with one size its number, too.
    """
    labels = [exit_label(name) for name in names]
    if label == MAIN or (labels[-1] == MAIN and label == str(len(labels))):
        return len(labels) - 1
    return labels.index(label) if label in labels else None


def group_spans(exits: Sequence[int], starts: Sequence[int] = (0,)) -> list[tuple[int, int]]:
    """First and last of the groups that are computed from each exit to the next, both included.

    Args:
        exits: Ascending.
        starts: Indices of the groups that read the image, the first of each input size: what comes before the first
            group of a size is not computed for that size.
    """
    before = [-1, *exits[:-1]]
    return [
        (max(last + 1, max(start for start in starts if start <= end)), end)
        for last, end in zip(before, exits, strict=True)
    ]
