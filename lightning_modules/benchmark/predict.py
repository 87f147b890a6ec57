"""What a GPU would have to do: launches and bytes of every kernel, counted, and the time they take.

Triton's interpreter runs the kernels on the CPU and is watched: which are launched, and how many
bytes their loads and stores touch. A device that is as fast as its memory then needs

    seconds = launches · overhead + bytes / bandwidth

Bytes count once in a launch, however often they are asked for: caches answer the second time. How
many are asked for in all is told beside it. Nothing is measured here; a benchmark on a device says
how near it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from lightning_modules.benchmark.cases import OURS, cases
from refnet._triton import INTERPRETED

BANDWIDTH = 4.0e12  # bytes per second that a copy reaches on an H200
OVERHEAD = 2e-6  # s between one kernel's end and the next one's first instruction, about
NUMBERS = 2**13  # of an input that the interpreter is given: it takes microseconds for each
SUBJECTS = ("batch_norm", "dropout", "softmax", "log_softmax", "cross_entropy", "SGD", "RMSprop",
            "Adam", "AdamW")  # fmt: skip


@dataclass
class Counted:
    """What was launched, by name, and how many bytes were touched, and asked for."""

    launches: list[str] = field(default_factory=list)
    touched: int = 0
    asked: int = 0


@dataclass(frozen=True)
class Prediction:
    """One case.

    Attributes:
        title: of the case.
        elements: of its input, or of all parameters.
        launches: of kernels, both ways or in a step.
        bytes: read and written per element, each once in a launch.
        asked: the same, each as often as a program asks for it.
        floor: bytes per element that nobody can do without.
        seconds: predicted.
    """

    title: str
    elements: int
    launches: int
    bytes: float
    asked: float
    floor: int
    seconds: float

    @property
    def share(self) -> float:
        """Which share of the copy bandwidth the bytes at the floor would move with."""
        return self.floor * self.elements / self.seconds


@contextmanager
def counting(*, run: bool = True) -> Iterator[Counted]:
    """Watch Triton's interpreter.

    Args:
        run: whether the kernels run; without it they are only counted, and leave no results.

    Raises:
        RuntimeError: the interpreter is off: TRITON_INTERPRET=1 belongs into the environment.
    """
    if not INTERPRETED:
        raise RuntimeError("kernels are counted under the interpreter: set TRITON_INTERPRET=1")
    from triton.runtime import interpreter

    builder, function = interpreter.InterpreterBuilder, interpreter.InterpretedFunction
    load, store, launch = builder.create_masked_load, builder.create_masked_store, function.run
    found = Counted()
    seen: dict[tuple[str, int], list[Any]] = {}  # addresses, by what is done and to how many bytes

    def note(what: str, pointers: Any, mask: Any) -> None:
        width = pointers.get_element_ty().primitive_bitwidth // 8
        places = np.unique(pointers.data[np.broadcast_to(mask.data, pointers.data.shape)])
        seen.setdefault((what, width), []).append(places)
        found.asked += width * places.size

    def counted_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note("read", pointers, mask)
        return load(self, pointers, mask, *rest)

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note("written", pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def counted_launch(self: Any, *args: Any, **options: Any) -> None:
        found.launches.append(self.fn.__name__)
        if run:
            launch(self, *args, **options)
        for (_, width), places in seen.items():
            found.touched += width * np.unique(np.concatenate(places)).size
        seen.clear()

    builder.create_masked_load, builder.create_masked_store = counted_load, counted_store
    function.run = counted_launch
    try:
        yield found
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
        function.run = launch


def predictions(
    bandwidth: float = BANDWIDTH,
    overhead: float = OVERHEAD,
    chosen: Callable[[str], bool] = lambda title: True,
    advance: Callable[[str], object] = lambda title: None,
) -> list[Prediction]:
    """Predict the time of each case that has kernels.

    Launches are counted at full size, where nothing runs; bytes on an input with fewer rows, or
    fewer and smaller parameters, since each element costs the same.

    Args:
        bandwidth: bytes per second.
        overhead: seconds per launch.
        chosen: whether a title is asked for.
        advance: called before each case.

    Returns:
        The predictions, in the order of the cases.
    """
    found = []
    asked = [case for case in cases() if case.subject in SUBJECTS and chosen(case.title)]
    for case in asked:
        advance(case.title)
        with counting(run=False) as whole:
            both = case.make()[OURS].both  # which launches some, for a cotangent
            made = len(whole.launches)
            both()
        small = case.smaller(NUMBERS)
        both = small.make()[OURS].both
        both()  # the first step of an optimizer makes its state
        with counting() as counted:
            both()
        each, asked_for = (n / small.elements for n in (counted.touched, counted.asked))
        launches = len(whole.launches) - made
        seconds = launches * overhead + each * case.elements / bandwidth
        found.append(
            Prediction(case.title, case.elements, launches, each, asked_for, case.floor, seconds)
        )  # fmt: skip
    return found


def prediction_table(found: list[Prediction], bandwidth: float, overhead: float) -> Table:
    """Return the predictions as a table for a terminal.

    Args:
        found: the predictions.
        bandwidth: that they were made with, in bytes per second.
        overhead: likewise, in seconds.
    """
    table = Table(
        title=f"predicted, not measured: {bandwidth / 1e12:g} TB/s, {overhead * 1e6:g} µs a launch",
        title_justify="left",
    )
    table.add_column("case")
    for heading in (
        "launches",
        "bytes/element",
        "asked for",
        "floor",
        "µs",
        "of the copy bandwidth",
    ):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.title, str(one.launches), f"{one.bytes:.1f}", f"{one.asked:.1f}", str(one.floor),
            f"{one.seconds * 1e6:.1f}", f"{one.share / bandwidth:.0%}",
        )  # fmt: skip
    return table
