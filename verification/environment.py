"""What figures depend on beside the code."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch


def environment() -> dict[str, Any]:
    """Return what the figures depend on: versions, machine, threads, precision settings."""
    backends: Any = torch.backends  # the annotations lack some of it
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "longdouble_bits": np.finfo(np.longdouble).nmant + 1,
        "interop_threads": torch.get_num_interop_threads(),
        "cuda": torch.version.cuda or "none",
        "cudnn": backends.cudnn.version() or "none",
        # What float32 is multiplied in: "tf32", "ieee", or "none", which is not set and so ieee.
        "float32_matmul_cuda": backends.cuda.matmul.fp32_precision,
        "float32_conv_cudnn": backends.cudnn.conv.fp32_precision,
        "float32_matmul_mkldnn": backends.mkldnn.matmul.fp32_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": backends.cudnn.deterministic,
        "cudnn_benchmark": backends.cudnn.benchmark,
    }
