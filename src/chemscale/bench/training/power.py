"""Electricity that the machine has used, where it tells."""

from __future__ import annotations

import ctypes
from pathlib import Path


def joules() -> float | None:
    """Read the energy counters of the processors (RAPL) and NVIDIA GPUs (NVML); None without any.

    A running total since some moment in the past: only differences mean something. RAPL counters
    wrap after hours; a difference below zero is to be taken as missing.
    """
    readings = [*_processors(), *_gpus()]
    return sum(readings) if readings else None


def added(total: float | None, before: float | None) -> float | None:
    """What was used so far and since `before`; missing once any part of it is."""
    after = joules() if total is not None and before is not None else None
    if total is None or before is None or after is None or after < before:
        return None
    return total + after - before


def _processors() -> list[float]:
    readings = []
    for file in sorted(Path("/sys/class/powercap").glob("intel-rapl:[0-9]*/energy_uj")):
        if file.parent.name.count(":") == 1:  # packages; their parts are counted in them
            try:
                readings.append(1e-6 * float(file.read_text()))
            except (OSError, ValueError):
                return []  # readable by root only on most machines
    return readings


def _gpus() -> list[float]:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    count = ctypes.c_uint()
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    readings = []
    for index in range(count.value):
        device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0 and (
            nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)) == 0
        ):
            readings.append(1e-3 * millijoules.value)
    return readings
