"""Coverage of options in pairs: some bugs show under two options together, and only then.

An op's options are a table of values and a list of combinations that cannot be. `combinations`
makes a small set of calls in which every other pair of values meets (with the library covertable);
`coverage` counts, on its own, which pairs the cases of a table really hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations as subsets
from itertools import product

from covertable import make  # type: ignore[import-untyped]

Values = Mapping[str, str]
Pair = frozenset[tuple[str, str]]  # two (option, value)


@dataclass(frozen=True)
class Options:
    """The options of an op.

    Attributes:
        values: option -> its values, in words.
        impossible: combinations that cannot be called, or mean nothing: why, and which values of
            which options make it up.
    """

    values: Mapping[str, Sequence[str]]
    impossible: Sequence[tuple[str, Mapping[str, Sequence[str]]]] = ()

    def reason(self, values: Values) -> str:
        """Return why a combination, whole or in part, cannot be; "" if it can."""
        for reason, parts in self.impossible:
            if all(values.get(option) in forbidden for option, forbidden in parts.items()):
                return reason
        return ""


def combinations(options: Options) -> list[dict[str, str]]:
    """Return combinations of values in which every possible pair occurs; always the same ones.

    A case runs in every dtype that can hold it, so the option "dtype" is left out.

    Example:
        >>> abc = Options({"a": ["1", "2"], "b": ["1", "2"], "c": ["1", "2"]})
        >>> len(combinations(abc)), 2 * 2 * 2
        (4, 8)
    """
    values = {name: list(v) for name, v in options.values.items() if name != "dtype"}
    rules = [
        {
            "operator": "not",
            "condition": {
                "operator": "and",
                "conditions": [
                    {"operator": "in", "left": name, "values": list(forbidden)}
                    for name, forbidden in parts.items()
                ],
            },
        }
        for _, parts in options.impossible
        if "dtype" not in parts
    ]
    rows: list[dict[str, str]] = make(values, constraints=rules)
    return [{name: row[name] for name in values} for row in rows]


@dataclass(frozen=True)
class Coverage:
    """Which pairs of option values the cases of a table hold.

    Attributes:
        covered: pairs that some case holds.
        missing: pairs that could be called, and no case does.
        impossible: pairs that cannot be called, with the reason.
    """

    covered: tuple[str, ...]
    missing: tuple[str, ...]
    impossible: Mapping[str, str]


def coverage(options: Options, cases: Iterable[Values]) -> Coverage:
    """Count the pairs that cases hold.

    Args:
        options: the values and what cannot be.
        cases: the values of each case; options that it doesn't name don't count.

    Returns:
        The pairs, as text.

    Example:
        >>> both = Options({"a": ["1", "2"], "b": ["1", "2"]}, [("no", {"a": ["2"], "b": ["2"]})])
        >>> found = coverage(both, [{"a": "1", "b": "1"}, {"a": "2", "b": "1"}])
        >>> len(found.covered), found.missing, found.impossible
        (2, ('a=1, b=2',), {'a=2, b=2': 'no'})
    """
    names = list(options.values)
    possible: set[Pair] = set()
    for row in product(*options.values.values()):
        values = dict(zip(names, row, strict=True))
        if not options.reason(values):
            possible |= _pairs(values)
    held = {pair for case in cases for pair in _pairs(case)}
    every = [
        frozenset({(a, x), (b, y)})
        for a, b in subsets(names, 2)
        for x, y in product(options.values[a], options.values[b])
    ]
    return Coverage(
        tuple(_text(pair) for pair in every if pair in possible and pair in held),
        tuple(_text(pair) for pair in every if pair in possible and pair not in held),
        {
            _text(pair): options.reason(dict(pair)) or "in no combination"
            for pair in every
            if pair not in possible
        },
    )


def _pairs(values: Values) -> set[Pair]:
    return {frozenset(pair) for pair in subsets(values.items(), 2)}


def _text(pair: Pair) -> str:
    return ", ".join(f"{option}={value}" for option, value in sorted(pair))
