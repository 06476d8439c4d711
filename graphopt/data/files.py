"""A folder of files, each one sample."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from graphopt.data.feeds import Feed


class FileSamples(ABC):
    """Samples that are read from `files` when they are needed; what a file is, subclasses know."""

    is_random = False

    def __init__(self, files: list[Path], description: str) -> None:
        self._files = files
        self.description = description
        self._feed(files[0])  # the first sample shows whether names, shapes and dtypes fit

    def __iter__(self) -> Iterator[Feed]:
        return map(self._feed, self._files)

    def count(self) -> int:
        return len(self._files)

    def part(self, start: int, stop: int) -> FileSamples:
        """The samples from `start` up to `stop`, to be read elsewhere."""
        part = copy.copy(self)
        part._files = self._files[start:stop]
        return part

    @abstractmethod
    def _feed(self, file: Path) -> Feed:
        """The sample in `file`."""
