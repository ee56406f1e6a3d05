"""The hardware that Keras computes on, and its native precision. Both affect the last bits of a
training's weights."""

import os
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Literal

from kdflow.lazy import lazy_import

# The backends stand here because Keras does not say which GPU it computes on.
keras, tensorflow, jax = lazy_import("keras"), lazy_import("tensorflow"), lazy_import("jax")
# TensorFlow has no public name for what it was imported with.
tensorflow_build = lazy_import("tensorflow.python.util._pywrap_util_port")

Precision = Literal["float32", "bfloat16"]

CPUINFO = Path("/proc/cpuinfo")  # of Linux
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}  # of x86 processors, as Linux names them
BFLOAT16_CAPABILITY = (8, 0)  # of NVIDIA GPUs, from Ampere on


def hardware() -> str:
    """What Keras computes on: `gpu`, `tpu`, or `cpu` with the number of its threads, and whether
    TensorFlow lacks oneDNN there. Sums are taken in another order with another number of
    threads, or without oneDNN, so that the weights differ."""
    if accelerators := _kinds() - {"cpu"}:
        return ", ".join(sorted(accelerators))
    chosen = int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    is_without = keras.backend.backend() == "tensorflow" and not has_onednn()
    return f"cpu, {chosen or available_cpus()} threads" + (", without oneDNN" if is_without else "")


def available_cpus() -> int:
    """How many CPUs this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_onednn() -> bool:
    """Whether TensorFlow uses oneDNN on the processor."""
    return bool(tensorflow_build.IsMklEnabled())


def computes_on_processor() -> bool:
    """Whether Keras computes on nothing else."""
    return _kinds() == {"cpu"}


@cache
def native_precision() -> Precision:
    """bfloat16 where all that Keras computes on multiplies in it natively, else float32."""
    kinds = _kinds()
    if "gpu" in kinds:
        return _precision_of_gpus(_capabilities())
    return "bfloat16" if kinds == {"cpu"} and BFLOAT16_FLAGS & _processor_flags() else "float32"


@cache
def multiplies_by_amx() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in units of their own, Intel's AMX."""
    return "amx_bf16" in _processor_flags()


def _kinds() -> set[str]:
    """What Keras computes on: cpu, gpu or tpu."""
    return {device.partition(":")[0] for device in keras.distribution.list_devices()}


def _processor_flags() -> set[str]:
    """The features of an x86 processor, as Linux names them; none on another system."""
    if not CPUINFO.exists():
        return set()
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    named = (line.partition(":") for line in lines)
    return next((set(it.split()) for name, _, it in named if name.strip() == "flags"), set())


def _precision_of_gpus(capabilities: Collection[tuple[int, ...]]) -> Precision:
    """The native precision of GPUs, from the compute capability of each: (major, minor)."""
    return "bfloat16" if min(capabilities, default=()) >= BFLOAT16_CAPABILITY else "float32"


def _capabilities() -> list[tuple[int, ...]]:
    """The compute capability of each GPU; that of a GPU which is not NVIDIA's is empty."""
    if keras.backend.backend() == "jax":  # as text, 8.0, or gfx90a of an AMD GPU
        texts = [str(getattr(each, "compute_capability", "")) for each in jax.devices("gpu")]
        parts = [text.split(".") for text in texts]
        return [tuple(map(int, each)) if all(map(str.isdigit, each)) else () for each in parts]
    found = tensorflow.config.list_physical_devices("GPU")
    details = map(tensorflow.config.experimental.get_device_details, found)
    return [each.get("compute_capability", ()) for each in details]
