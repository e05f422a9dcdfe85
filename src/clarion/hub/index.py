"""Which subscriptions an event matches, without asking those that it does not.

An event's topic finds the patterns that match it: literal ones by the topic, wildcard ones by their literal prefix and
suffix, both through a cache of topics. Each pattern holds its subscriptions by one equality clause of their filter, so
that the event's own value finds them. What is found that way is a superset; the filter itself decides.

Only what has nothing literal is scanned: a filter without an equality clause once per event of its topics, a pattern
without literal ends (`*deal*`) once per topic that the cache does not know.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from clarion.filters import ENVELOPE, Clause, Filter, Find, finder, scalar_key
from clarion.model import Event
from clarion.topics import Pattern

__all__ = ["MAX_CACHED_TOPICS", "Group", "TopicIndex", "Unmatchable"]

MAX_CACHED_TOPICS = 4096
"""Topics whose patterns are remembered. Stops a publisher of ever-new topics filling the memory."""

_FEW_PATHS = 4  # up to this many looking each of them up costs less than walking the payload

T = TypeVar("T", bound=Hashable)
V = TypeVar("V")

_Paths: TypeAlias = tuple[str, ...]
"""What a clause looks up: `Clause.paths`."""


class Unmatchable(Exception):
    """A filter raised, which it never should; `targets` are those that have it, the cause is what it raised."""

    def __init__(self, targets: Sequence[Any]) -> None:
        super().__init__(f"the filter of {len(targets)} targets cannot be asked")
        self.targets = targets


class TopicIndex(Generic[T]):
    """The subscriptions of one tenant: targets with their patterns and filter.

    Not for use from several threads. Adding and removing cost O(patterns) of that target, matching O(what matches).
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[tuple[Pattern, ...], bytes], Group[T]] = {}
        self._targets: dict[T, Group[T]] = {}
        self._patterns: _PatternTable[T] = _PatternTable()
        self._reach = _Reach()

    def __len__(self) -> int:
        """How many targets there are."""
        return len(self._targets)

    def __iter__(self) -> Iterator[T]:
        return iter(self._targets)

    def add(self, target: T, patterns: Sequence[Pattern], filter: Filter) -> None:
        """Let `target` match what any of `patterns` and `filter` match, instead of what it matched before, if so."""
        self.remove(target)
        distinct = tuple(sorted(set(patterns), key=_spelling)) if len(patterns) > 1 else tuple(patterns)
        key = (distinct, filter.canonical)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, filter)
            group.places = tuple(self._place(group, pattern) for pattern in distinct)
        group.targets[target] = None
        group.memo = None
        self._targets[target] = group

    def remove(self, target: T) -> None:
        """Let `target` match nothing more; nothing happens when it is unknown."""
        group = self._targets.pop(target, None)
        if group is None:
            return
        del group.targets[target]
        group.memo = None
        if group.targets:
            return
        del self._groups[group.key]
        for node, clause in group.places:
            node.take(group, clause, self._reach)
            if node.size == 0:
                self._patterns.drop(node)

    def touch(self, target: T) -> None:
        """Forget what is remembered of `target`'s group; nothing happens when it is unknown."""
        group = self._targets.get(target)
        if group is not None:
            group.memo = None

    def match(self, event: Event) -> list[T]:
        """Every target of which a pattern and the filter match `event`, once each, in no particular order.

        Raises Unmatchable for the targets of a filter that raises; without them the others can be asked again.
        """
        return [target for group in self.groups(event) for target in group.targets]

    def groups(self, event: Event) -> list[Group[T]]:
        """The same, by the groups of targets that share patterns and filter."""
        nodes = self._patterns.matching(event.topic)
        matched: list[Group[T]] = []
        if not nodes:
            return matched
        payload = event.payload
        reachable: Iterable[_Paths] | None = None
        seen: set[Group[T]] = set()
        for node in nodes:
            candidates = list(node.unsorted)
            if node.shelves:
                if len(node.shelves) > _FEW_PATHS and reachable is None:
                    reachable = self._reach.of(payload)
                node.gather(payload, event, reachable, candidates)
            for group in candidates:
                if len(group.places) > 1:  # it may come again by another of its patterns
                    if group in seen:
                        continue
                    seen.add(group)
                try:
                    if group.filter.matches(event):
                        matched.append(group)
                except Exception as error:
                    raise Unmatchable(list(group.targets)) from error
        return matched

    def _place(self, group: Group[T], pattern: Pattern) -> tuple[_Node[T], Clause | None]:
        node = self._patterns.node(pattern)
        return node, node.put(group, self._reach)


class Group(Generic[T]):
    """The targets that share patterns and filter: found once and asked once, however many they are.

    `memo` is for whoever uses the index, to keep what it derives from the targets: it is forgotten when they change.
    """

    __slots__ = ("filter", "key", "memo", "places", "targets")

    def __init__(self, key: tuple[tuple[Pattern, ...], bytes], filter: Filter) -> None:
        self.key = key
        self.filter = filter
        self.targets: dict[T, None] = {}
        self.memo: Any = None
        self.places: tuple[tuple[_Node[T], Clause | None], ...] = ()


class _Shelf(Generic[T]):
    """A pattern's groups with an equality clause on the same paths, by the values that the clause allows."""

    __slots__ = ("find", "size", "values")

    def __init__(self, paths: _Paths) -> None:
        self.find: Find = finder(paths)
        self.values: dict[Hashable, dict[Group[T], None]] = {}
        self.size = 0


class _Node(Generic[T]):
    """One pattern and its groups: on a shelf by one of their equality clauses, unsorted when they have none."""

    __slots__ = ("pattern", "shelves", "size", "unsorted")

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.unsorted: dict[Group[T], None] = {}
        self.shelves: dict[_Paths, _Shelf[T]] = {}
        self.size = 0

    def gather(
        self, payload: Mapping[str, Any], event: Event, reachable: Iterable[_Paths] | None, into: list[Group[T]]
    ) -> None:
        """Append the groups whose shelved clause `event` fulfils, each once; `reachable` is every path it can have."""
        shelves: Iterable[_Shelf[T] | None] = self.shelves.values()
        if reachable is not None and len(self.shelves) > _FEW_PATHS:
            shelves = map(self.shelves.get, reachable)
        for shelf in shelves:
            if shelf is not None:
                groups = shelf.values.get(scalar_key(shelf.find(payload, event)))
                if groups is not None:
                    into.extend(groups)

    def put(self, group: Group[T], reach: _Reach) -> Clause | None:
        """Take `group` in; answers the clause that it is shelved by, which `take` wants back."""
        self.size += 1
        clause = self._least_crowded(group.filter)
        if clause is None or clause.scalars is None:
            self.unsorted[group] = None
            return None
        shelf = self.shelves.get(clause.paths)
        if shelf is None:
            shelf = self.shelves[clause.paths] = _Shelf(clause.paths)
            reach.add(clause.paths)
        shelf.size += 1
        for value in clause.scalars:
            shelf.values.setdefault(value, {})[group] = None
        return clause

    def take(self, group: Group[T], clause: Clause | None, reach: _Reach) -> None:
        """Give `group` up, which `put` shelved by `clause`."""
        self.size -= 1
        if clause is None or clause.scalars is None:
            del self.unsorted[group]
            return
        shelf = self.shelves[clause.paths]
        for value in clause.scalars:
            groups = shelf.values[value]
            del groups[group]
            if not groups:
                del shelf.values[value]
        shelf.size -= 1
        if shelf.size == 0:
            del self.shelves[clause.paths]
            reach.remove(clause.paths)

    def _least_crowded(self, filter: Filter) -> Clause | None:
        """The equality clause that shares its values with the fewest groups.

        So `{status, account_id}` of many accounts goes by account, without anyone knowing which field is selective.
        """
        best: Clause | None = None
        best_rank = (0, 0)
        for clause in filter.clauses:
            if clause.scalars is None:
                continue
            shelf = self.shelves.get(clause.paths)
            crowd = 0
            if shelf is not None:
                crowd = max((len(shelf.values.get(value, ())) for value in clause.scalars), default=0)
            rank = (crowd, len(clause.scalars))
            if best is None or rank < best_rank:
                best, best_rank = clause, rank
        return best


class _ByLength(Generic[V]):
    """Values by strings of a few lengths, to find those that begin or end a topic with one look per length in use."""

    __slots__ = ("lengths", "values")

    def __init__(self) -> None:
        self.values: dict[str, V] = {}
        self.lengths: dict[int, int] = {}

    def __setitem__(self, text: str, value: V) -> None:
        if text not in self.values:
            self.lengths[len(text)] = self.lengths.get(len(text), 0) + 1
        self.values[text] = value

    def __delitem__(self, text: str) -> None:
        del self.values[text]
        self.lengths[len(text)] -= 1
        if self.lengths[len(text)] == 0:
            del self.lengths[len(text)]

    def beginning(self, topic: str) -> Iterator[V]:
        """The values whose string `topic` begins with."""
        for length in self.lengths:
            if length <= len(topic):
                value = self.values.get(topic[:length])
                if value is not None:
                    yield value

    def ending(self, topic: str) -> Iterator[V]:
        """The values whose string `topic` ends with."""
        for length in self.lengths:
            if length <= len(topic):
                value = self.values.get(topic[len(topic) - length :])
                if value is not None:
                    yield value


class _PatternTable(Generic[T]):
    """The nodes by pattern, and those that match a topic."""

    def __init__(self) -> None:
        self._nodes: dict[Pattern, _Node[T]] = {}
        self._literal: dict[str, dict[_Node[T], None]] = {}
        self._wildcard: _ByLength[_ByLength[dict[_Node[T], None]]] = _ByLength()  # by prefix, then by suffix
        self._cache: OrderedDict[str, tuple[_Node[T], ...]] = OrderedDict()

    def matching(self, topic: str) -> tuple[_Node[T], ...]:
        """The nodes whose pattern matches `topic`."""
        nodes = self._cache.get(topic)
        if nodes is not None:
            self._cache.move_to_end(topic)
            return nodes
        nodes = self._cache[topic] = tuple(self._found(topic))
        if len(self._cache) > MAX_CACHED_TOPICS:
            self._cache.popitem(last=False)
        return nodes

    def node(self, pattern: Pattern) -> _Node[T]:
        """The node of `pattern`, made when there is none."""
        node = self._nodes.get(pattern)
        if node is not None:
            return node
        node = self._nodes[pattern] = _Node(pattern)
        if pattern.literal:
            self._literal.setdefault(pattern.prefix, {})[node] = None
        else:
            by_suffix = self._wildcard.values.get(pattern.prefix)
            if by_suffix is None:
                by_suffix = self._wildcard[pattern.prefix] = _ByLength()
            nodes = by_suffix.values.get(pattern.suffix)
            if nodes is None:
                nodes = by_suffix[pattern.suffix] = {}
            nodes[node] = None
        self._forget(pattern)
        return node

    def drop(self, node: _Node[T]) -> None:
        """Forget `node`, and all that only it needed."""
        pattern = node.pattern
        del self._nodes[pattern]
        if pattern.literal:
            nodes = self._literal[pattern.prefix]
            del nodes[node]
            if not nodes:
                del self._literal[pattern.prefix]
        else:
            by_suffix = self._wildcard.values[pattern.prefix]
            nodes = by_suffix.values[pattern.suffix]
            del nodes[node]
            if not nodes:
                del by_suffix[pattern.suffix]
            if not by_suffix.values:
                del self._wildcard[pattern.prefix]
        self._forget(pattern)

    def _found(self, topic: str) -> Iterator[_Node[T]]:
        yield from self._literal.get(topic, ())
        for by_suffix in self._wildcard.beginning(topic):
            for nodes in by_suffix.ending(topic):
                for node in nodes:
                    if node.pattern.matches(topic):
                        yield node

    def _forget(self, pattern: Pattern) -> None:
        """Drop from the cache what `pattern` may change: one topic, or all, which matching them paid for already."""
        if pattern.literal:
            self._cache.pop(pattern.prefix, None)
        else:
            self._cache.clear()


class _Branch:
    """A place in payloads: the clauses' paths that may have their value there, and the places below."""

    __slots__ = ("below", "paths")

    def __init__(self) -> None:
        self.paths: dict[_Paths, None] = {}
        self.below: dict[str, _Branch] = {}


class _Reach:
    """All paths that a tenant's shelves look up, as a tree: walking a payload through it costs the payload's size,
    not theirs, so that many subscriptions to odd fields cost events without these fields nothing."""

    def __init__(self) -> None:
        self._uses: dict[_Paths, int] = {}
        self._enveloped: dict[_Paths, None] = {}
        self._root = _Branch()

    def add(self, paths: _Paths) -> None:
        """Count one more shelf for `paths`."""
        self._uses[paths] = self._uses.get(paths, 0) + 1
        if self._uses[paths] > 1:
            return
        if not ENVELOPE.isdisjoint(paths):
            self._enveloped[paths] = None
        for way in _ways(paths):
            branch = self._root
            for name in way:
                branch = branch.below.setdefault(name, _Branch())
            branch.paths[paths] = None

    def remove(self, paths: _Paths) -> None:
        """Count one shelf less for `paths`."""
        self._uses[paths] -= 1
        if self._uses[paths] > 0:
            return
        del self._uses[paths]
        self._enveloped.pop(paths, None)
        for way in _ways(paths):
            self._prune(way, paths)

    def of(self, payload: Mapping[str, Any]) -> Iterable[_Paths]:
        """The paths that may have a value in an event with `payload`, each once: some may have none after all."""
        reached = dict(self._enveloped)
        waiting: list[tuple[_Branch, Mapping[str, Any]]] = [(self._root, payload)]
        while waiting:
            branch, value = waiting.pop()
            below = branch.below
            for name in value if len(value) < len(below) else below:
                if name in value and name in below:
                    found = below[name]
                    reached.update(found.paths)
                    if found.below and isinstance(value[name], dict):
                        waiting.append((found, value[name]))
        return reached

    def _prune(self, way: Sequence[str], paths: _Paths) -> None:
        branches = [self._root]
        for name in way:
            branches.append(branches[-1].below[name])
        del branches[-1].paths[paths]
        for parent, name, branch in reversed(list(zip(branches, way, branches[1:], strict=False))):
            if branch.paths or branch.below:
                return
            del parent.below[name]


def _ways(paths: _Paths) -> Iterator[Sequence[str]]:
    """Where in a payload `paths` may have their value: under the whole name, and step by step where it has dots."""
    for path in paths:
        yield (path,)
        if "." in path:
            yield path.split(".")


def _spelling(pattern: Pattern) -> tuple[str, str]:
    return pattern.language, pattern.text
