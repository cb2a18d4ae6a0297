"""The machine a measurement was made on, in words: numbers without it cannot be compared."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Cores, processor, memory and Python's version."""
    return f"{os.cpu_count()} cores ({_processor()}), {_memory_gib()} memory, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory_gib() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1024**3:.0f} GiB"
    except (OSError, ValueError):
        return "unknown"
