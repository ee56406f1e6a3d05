"""What the last bits of a training depend on, besides its code."""

import os

import keras


def hardware() -> str:
    """The processor that Keras computes on: `gpu`, or `cpu` with the number of its threads. Sums
    are taken in another order with another number of threads, so that the weights differ."""
    if any(device.startswith("gpu") for device in keras.distribution.list_devices()):
        return "gpu"
    chosen = int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {chosen or available} threads"
