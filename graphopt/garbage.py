"""Python's garbage collector, kept off what was there before."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# So many objects more than are freed, and the young ones are looked through: a pass makes thousands
# that stay, and would be interrupted for each 700 of them.
_YOUNG_OBJECTS = 5000


@contextmanager
def collecting_only_new() -> Iterator[None]:
    """Inside, the garbage collector looks only at objects made inside.

    A model is some ten thousand objects, and a collection or two come due on the way. Each would
    walk everything that the process has ever imported as well, which takes longer than most passes.
    Garbage of ours, which holds weights, is still found.

    Whoever has frozen objects, as servers do before they fork, is left alone.
    """
    if gc.get_freeze_count():
        yield
        return
    young, *older = gc.get_threshold()
    gc.freeze()
    if young:  # 0 if it is switched off
        gc.set_threshold(max(young, _YOUNG_OBJECTS), *older)
    try:
        yield
    finally:
        gc.set_threshold(young, *older)
        gc.unfreeze()
