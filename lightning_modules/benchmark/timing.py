"""Time several calls against each other, in turns, so that a busy machine disturbs all of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from torch.utils.benchmark import Timer

BLOCK = 0.01  # s of calls that are timed at once
ROUNDS = 7, 101  # at least, at most

Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """What was measured of one party.

    Attributes:
        seconds: of one call, in every round.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median

    def ratio(self, other: Timing) -> float:
        """How many times the other's time this is: the median over the rounds.

        Example:
            >>> Timing((2.0, 4.0, 9.0)).ratio(Timing((1.0, 2.0, 3.0)))
            2.0
        """
        pairs = zip(self.seconds, other.seconds, strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def measure(calls: Mapping[str, Call], seconds: float = 1.0) -> dict[str, Timing]:
    """Time calls in turns: a block of each, then the next round, beginning with another one.

    A block follows calls that are not timed: another party's threads may still be spinning, and
    its data are in the caches.

    Args:
        calls: by the party's name.
        seconds: to spend on it, about.

    Returns:
        What each took; the rounds of all belong together.

    Example:
        >>> found = measure({"ours": lambda: sum(range(1000)), "theirs": lambda: None}, 0.1)
        >>> found["ours"].median > found["theirs"].median
        True
    """
    timers = {name: Timer("call()", globals={"call": call}) for name, call in calls.items()}
    numbers = {name: _number(timer) for name, timer in timers.items()}
    names, taken = list(timers), {name: list[float]() for name in timers}
    gc.collect()
    start = perf_counter()
    for turn in range(ROUNDS[1]):
        if turn >= ROUNDS[0] and perf_counter() - start > seconds:
            break
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            timers[name].timeit(max(numbers[name] // 4, 1))
            taken[name].append(timers[name].timeit(numbers[name]).mean)
    return {name: Timing(tuple(values)) for name, values in taken.items()}


def _number(timer: Timer) -> int:
    """How many calls fill a block."""
    number = 1
    timer.timeit(1)  # compiles what is to be compiled
    while (took := timer.timeit(number).mean * number) < BLOCK / 4:
        number *= 4
    return max(round(number * BLOCK / took), 1)
