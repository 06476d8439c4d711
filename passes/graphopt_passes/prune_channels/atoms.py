"""Dimension atoms: what must be cut together has the same atom.

Every axis of every tensor has labels: an int64 array with the id of an atom for each position.
Operators tie atoms (union-find). A frozen atom is never cut, and remembers why.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = "NDArray[np.int64]"
"""The atoms along one axis, one id per position."""


class Atoms:
    """A union-find over atoms. Frozen atoms are roots that absorb what is tied to them."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}
        self._frozen: dict[str, int] = {}

    def new(self, count: int) -> Labels:
        """`count` atoms that nothing ties."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def frozen(self, count: int, reason: str) -> Labels:
        """Labels of an axis that stays whole because of `reason`."""
        if reason not in self._frozen:
            root = int(self.new(1)[0])
            self._frozen[reason] = root
            self._reason[root] = reason
        return np.broadcast_to(np.int64(self._frozen[reason]), (count,))

    def find(self, atom: int) -> int:
        parent = self._parent
        root = atom
        while parent[root] != root:
            root = parent[root]
        while parent[atom] != root:
            parent[atom], atom = root, parent[atom]
        return root

    def tie(self, first: Labels, second: Labels) -> None:
        """Ties the atoms at each position of two axes of the same length."""
        if first.shape != second.shape:
            raise ValueError(f"axes of {len(first)} and {len(second)} positions cannot be tied")
        # Millions of positions often hold few different pairs.
        count = len(self._parent)
        for pair in np.unique(first * count + second).tolist():
            self._union(self.find(pair // count), self.find(pair % count))

    def tie_all(self, labels: Labels) -> None:
        """Ties all atoms of `labels` to one."""
        if len(labels) > 1:
            self.tie(labels[1:], np.broadcast_to(labels[0], labels[1:].shape))

    def freeze(self, labels: Labels, reason: str) -> None:
        """Keeps all of `labels`; what is frozen already keeps its first reason."""
        frozen = int(self.frozen(1, reason)[0])
        for atom in np.unique(labels).tolist():
            self._union(self.find(atom), frozen)

    def roots(self, labels: Labels) -> Labels:
        """The representative of each atom."""
        if len(labels) == 0:
            return labels
        if labels.strides == (0,):
            return np.broadcast_to(np.int64(self.find(int(labels[0]))), labels.shape)
        unique, inverse = np.unique(labels, return_inverse=True)
        return np.array([self.find(atom) for atom in unique.tolist()], dtype=np.int64)[inverse]

    def all_roots(self) -> Labels:
        """The representative of every atom there is, by its id."""
        roots = np.array(self._parent, dtype=np.int64)
        while not np.array_equal(roots, further := roots[roots]):
            roots = further
        return roots

    def free(self, labels: Labels) -> Labels:
        """The representatives in `labels` that are not frozen, each once, in ascending order."""
        roots = np.unique(self.roots(labels))
        return roots[[root not in self._reason for root in roots.tolist()]]

    def reason(self, atom: int) -> str | None:
        """Why an atom is frozen, or None if it is free."""
        return self._reason.get(self.find(atom))

    def __len__(self) -> int:
        return len(self._parent)

    def _union(self, a: int, b: int) -> None:
        if a == b or (a in self._reason and b in self._reason):
            return
        # The smaller id stays, so that the result does not depend on the order of the ties.
        low, high = min(a, b), max(a, b)
        if high in self._reason:
            low, high = high, low
        self._parent[high] = low
