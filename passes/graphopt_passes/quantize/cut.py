"""The cheapest cut of a network in two."""

from __future__ import annotations

from collections import deque

SOURCE, SINK = 0, 1
UNBREAKABLE = 1 << 60
"""A cost that no cut pays."""


class Network:
    """Vertices, numbered as they come, and what it costs to have the ends of an edge apart.

    The cheapest cut is what the greatest flow fills (Ford and Fulkerson 1956); that is found along
    shortest ways, level by level (Dinic 1970).
    """

    def __init__(self) -> None:
        self._heads: list[int] = []
        self._room: list[int] = []
        self._edges: list[list[int]] = [[], []]

    def vertex(self) -> int:
        """A new vertex."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, tail: int, head: int, cost: int) -> None:
        """`cost` is to be paid if `tail` is on the source's side and `head` on the sink's."""
        for end, other, room in ((tail, head, cost), (head, tail, 0)):
            self._edges[end].append(len(self._heads))
            self._heads.append(other)
            self._room.append(room)

    def source_side(self) -> set[int]:
        """The vertices on the source's side of the cheapest cut: of several, that with fewest."""
        levels = self._levels()
        while SINK in levels:
            tried = [0] * len(self._edges)
            while way := self._way(levels, tried):
                least = min(self._room[edge] for edge in way)
                for edge in way:
                    self._room[edge] -= least
                    self._room[edge ^ 1] += least
            levels = self._levels()
        return set(levels)

    def _levels(self) -> dict[int, int]:
        """How many edges with room lead from the source to each vertex that can be reached."""
        levels = {SOURCE: 0}
        pending = deque([SOURCE])
        while pending:
            vertex = pending.popleft()
            for edge in self._edges[vertex]:
                head = self._heads[edge]
                if self._room[edge] and head not in levels:
                    levels[head] = levels[vertex] + 1
                    pending.append(head)
        return levels

    def _way(self, levels: dict[int, int], tried: list[int]) -> list[int]:
        """The edges of a shortest way from the source to the sink; [] if none is left.

        Args:
            tried: how many edges of each vertex lead nowhere any more.
        """
        way: list[int] = []
        vertex = SOURCE
        while vertex != SINK:
            edges = self._edges[vertex]
            if tried[vertex] == len(edges):
                if not way:
                    return []
                vertex = self._heads[way.pop() ^ 1]
                tried[vertex] += 1
                continue
            edge = edges[tried[vertex]]
            head = self._heads[edge]
            if self._room[edge] and levels.get(head) == levels[vertex] + 1:
                way.append(edge)
                vertex = head
            else:
                tried[vertex] += 1
        return way
