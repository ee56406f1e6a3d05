"""What Keras computes on, from what systems say of themselves."""

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

from kdflow import hardware
from kdflow.hardware import multiplies_by_amx, native_precision

ZEN_3 = """\
processor\t: 0
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu vme sse4_2 avx2 bmi2 sha_ni
bugs\t\t: sysret_ss_attrs

processor\t: 1
flags\t\t: fpu vme sse4_2 avx2 bmi2 sha_ni
"""
ZEN_4 = ZEN_3.replace("avx2", "avx2 avx512f avx512_bf16")
SAPPHIRE_RAPIDS = ZEN_3.replace("avx2", "avx2 avx512f amx_tile amx_bf16")
FP16_ALONE = ZEN_3.replace("avx2", "avx2 avx512f avx512_fp16")
NAMED_ONLY = ZEN_3.replace("EPYC 7763", "avx512_bf16 amx_bf16")
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16\n"


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    for cached in (native_precision, multiplies_by_amx):
        cached.cache_clear()
    yield
    for cached in (native_precision, multiplies_by_amx):
        cached.cache_clear()


def devices(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: list(names))


@pytest.mark.parametrize(
    ("cpuinfo", "expected", "has_amx"),
    [
        (ZEN_3, "float32", False),
        (ZEN_4, "bfloat16", False),
        (SAPPHIRE_RAPIDS, "bfloat16", True),
        (FP16_ALONE, "float32", False),
        (NAMED_ONLY, "float32", False),  # the processor's name is no flag
        (ARM, "float32", False),
        ("", "float32", False),
        ("flags", "float32", False),
    ],
)
def test_a_processor_is_known_by_its_flags(
    cpuinfo: str, expected: str, has_amx: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    devices(monkeypatch, "cpu:0")
    assert native_precision() == expected
    assert multiplies_by_amx() == has_amx


def test_a_system_without_these_flags_computes_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "none")
    devices(monkeypatch, "cpu:0")
    assert native_precision() == "float32"
    assert not multiplies_by_amx()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (["7.5"], "float32"),
        (["8.0"], "bfloat16"),
        (["12.0"], "bfloat16"),  # as a text it would be less than 8.0
        (["9.0", "7.0"], "float32"),  # what one GPU lacks, not all have
        (["gfx90a"], "float32"),  # of an AMD GPU
        ([None], "float32"),
        ([], "float32"),
    ],
)
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_gpu_is_known_by_its_capability_and_its_processor_does_not_count(
    backend: str,
    capabilities: list[str | None],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "cpuinfo").write_text(ZEN_4 if expected == "float32" else ZEN_3)
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    devices(monkeypatch, "cpu:0", "gpu:0")
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(hardware, "tensorflow", tensorflow_with(capabilities))
    monkeypatch.setattr(hardware, "jax", jax_with(capabilities))
    assert native_precision() == expected


def tensorflow_with(capabilities: list[str | None]) -> SimpleNamespace:
    """Of a GPU that is not NVIDIA's, TensorFlow gives no capability; else a tuple of numbers."""

    def details(text: str | None) -> dict[str, tuple[int, ...]]:
        if text is None or text.startswith("gfx"):
            return {}
        return {"compute_capability": tuple(map(int, text.split(".")))}

    experimental = SimpleNamespace(get_device_details=details)
    config = SimpleNamespace(
        list_physical_devices=lambda kind: capabilities if kind == "GPU" else [],
        experimental=experimental,
    )
    return SimpleNamespace(config=config)


def jax_with(capabilities: list[str | None]) -> SimpleNamespace:
    """JAX gives a text, where it gives any."""
    gpus = [SimpleNamespace(compute_capability=it) if it else object() for it in capabilities]
    return SimpleNamespace(devices=lambda kind: gpus if kind == "gpu" else [])


def test_a_tpu_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, "tpu:0")
    assert native_precision() == "float32"
    assert hardware.hardware() == "tpu"


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow" or platform.machine() not in {"x86_64", "AMD64"},
    reason="oneDNN is a part of TensorFlow's packages for these processors",
)
@pytest.mark.skipif(sys.platform != "linux", reason="and for Linux")
def test_tensorflow_computes_with_onednn() -> None:
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert hardware.tensorflow_build.IsMklEnabled()


@pytest.mark.parametrize(
    ("backend", "has_onednn", "expected"),
    [
        ("tensorflow", True, "cpu, 3 threads"),
        ("tensorflow", False, "cpu, 3 threads, without oneDNN"),
        ("jax", False, "cpu, 3 threads"),
    ],
)
def test_the_hardware_says_whether_tensorflow_lacks_onednn(
    backend: str, has_onednn: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, "cpu:0")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    build = SimpleNamespace(IsMklEnabled=lambda: has_onednn)
    monkeypatch.setattr(hardware, "tensorflow_build", build)
    assert hardware.hardware() == expected
