"""The suite on a GPU, where there is one."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.lockstep import suite as lockstep
from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.ops.rows import op_rows
from verification.optimizers.rows import optimizer_rows
from verification.report import collect

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("name", op_tables())
def test_ops(name: str) -> None:
    collect(op_rows(op_tables()[name], seeds=3, device="cuda")).raise_if_failed()


@pytest.mark.parametrize("name", optimizer_tables())
def test_optimizers(name: str) -> None:
    table = optimizer_tables()[name]
    collect(optimizer_rows(table, seeds=3, steps=12, device="cuda")).raise_if_failed()


def test_training_in_lockstep() -> None:
    collect(lockstep(quick=True, device="cuda")).raise_if_failed()
