"""The minimum cut of a small network, by shortest augmenting paths (Edmonds and Karp)."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

SOURCE, SINK = 0, 1
UNLIMITED = 1 << 30


class Network:
    """A directed graph with capacities between vertices, which are numbers."""

    def __init__(self) -> None:
        self._left: list[dict[int, int]] = [{}, {}]

    def vertex(self) -> int:
        self._left.append({})
        return len(self._left) - 1

    def edge(self, start: int, end: int, capacity: int) -> None:
        self._left[start][end] = self._left[start].get(end, 0) + capacity
        self._left[end].setdefault(start, 0)

    def cut(self) -> tuple[int, set[int]]:
        """The least capacity that parts SOURCE from SINK, and the fewest vertices on its side."""
        total = 0
        while True:
            came_from = self._reached()
            if SINK not in came_from:
                return total, set(came_from)
            path = [SINK]
            while path[-1] != SOURCE:
                path.append(came_from[path[-1]])
            steps = [(b, a) for a, b in pairwise(path)]
            flow = min(self._left[a][b] for a, b in steps)
            for a, b in steps:
                self._left[a][b] -= flow
                self._left[b][a] += flow
            total += flow

    def _reached(self) -> dict[int, int]:
        """The vertices that SOURCE still reaches, each with the one before it."""
        came_from = {SOURCE: SOURCE}
        pending = deque([SOURCE])
        while pending and SINK not in came_from:
            vertex = pending.popleft()
            for other, capacity in self._left[vertex].items():
                if capacity and other not in came_from:
                    came_from[other] = vertex
                    pending.append(other)
        return came_from
