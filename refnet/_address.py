"""numba's type of an address: a pointer for the loops, an integer for Python.

In a module of its own, which is imported with the first kernel: numba finds the type again by name
when it takes compiled code from the disk.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core.datamodel import models
from numba.extending import NativeValue, register_model, unbox

from refnet._compile import VECTOR_BITS

__all__ = ["Address"]


class Address(types.CPointer):
    """A pointer that Python passes as an integer."""


@register_model(Address)
class _AddressModel(models.PointerModel):
    def from_argument(self, builder: Any, value: Any) -> Any:
        """Take it as it is, in a function that is told to use whole vector registers.

        LLVM takes half of them unless told so, and numba has no option for it. The mark is lost
        where a function is inlined.
        """
        attributes = builder.function.attributes
        if "alwaysinline" not in attributes:
            attributes.add("noinline")
            set.add(attributes, f'"prefer-vector-width"="{VECTOR_BITS}"')  # add takes no such ones
        return value


@unbox(Address)  # type: ignore[no-untyped-call, untyped-decorator]
def _from_integer(kind: Any, number: Any, c: Any) -> Any:
    pointer = c.builder.bitcast(c.pyapi.long_as_voidptr(number), c.context.get_value_type(kind))
    return NativeValue(pointer, is_error=c.pyapi.c_api_error())  # type: ignore[no-untyped-call]
