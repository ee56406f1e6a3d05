"""`deploy.json` says of each file what it is, and how to run it."""

import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from helpers import needs_deploy

from kdflow.dataset import Dataset
from kdflow.deploy import make
from kdflow.deploy.files import all_logits, open_file
from kdflow.deploy.judge import judge
from kdflow.deploy.manifest import manifest
from kdflow.evaluate.metrics import predict_logits

pytestmark = [pytest.mark.slow, needs_deploy]


@pytest.fixture
def written(
    tiny: Dataset, small_network: keras.Model, float_pixels: np.ndarray, tmp_path: Path
) -> dict[str, Any]:
    paths = make.make(small_network, float_pixels, tmp_path).paths
    own = predict_logits(small_network, tiny.x_test)
    judged = {
        path.name: judge(all_logits(open_file(path), tiny.x_test), own, tiny.y_test, 0.01)
        for path in paths
    }
    return manifest(
        small_network,
        tiny,
        paths,
        judged,
        source="a run",
        weights_sha256="a hash",
        calibration={"images": 60},
        margin=0.01,
        not_made={},
    )


def test_it_describes_the_network_and_each_file(
    written: dict[str, Any], tiny: Dataset, tmp_path: Path
) -> None:
    assert written["class_names"] == ["dark", "mid", "light"]
    assert written["pixels"] == {"shape": ["images", 8, 8, 3], "lowest": 0, "highest": 255}
    assert written["dataset"] == {"name": "tiny", "digest": tiny.digest}
    # a 3x3 convolution to 16 channels, then 4x4x16 to 32 to 3
    assert written["multiply_adds"] == 64 * 27 * 16 + 256 * 32 + 32 * 3
    assert written["parameters"] == 28 * 16 + 257 * 32 + 33 * 3
    assert sorted(written["files"]) == sorted([*make.LITERT, *make.ONNX])
    for name, described in written["files"].items():
        content = (tmp_path / name).read_bytes()
        assert described["bytes"] == len(content)
        assert described["sha256"] == hashlib.sha256(content).hexdigest()
        assert described["input"]["shape"] == [None, 8, 8, 3]
        is_int8 = name == make.INT8
        assert described["input"]["dtype"] == ("int8" if is_int8 else "float32")
        assert (described["output"]["scale"] is not None) == is_int8
        assert described["test"]["accuracy_difference"]["verdict"] == "INCONCLUSIVE"


def test_how_to_run_it_runs(
    written: dict[str, Any], tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, described in written["files"].items():
        names: dict[str, Any] = {"pixels": tiny.x_test}
        exec(described["how_to_run"], names)
        expected = all_logits(open_file(tmp_path / name), tiny.x_test)
        assert names["logits"] == pytest.approx(expected, abs=1e-5)
