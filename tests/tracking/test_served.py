"""The model that MLflow serves: its own arithmetic, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import needs_deploy

from kdflow.dataset import Dataset, Images
from kdflow.deploy import make
from kdflow.deploy.files import all_logits, open_file
from kdflow.deploy.judge import judge
from kdflow.deploy.manifest import manifest
from kdflow.evaluate.metrics import predict_logits
from kdflow.network import build
from kdflow.tracking import registry
from kdflow.tracking.runs import open_run

pytestmark = [needs_deploy, pytest.mark.usefixtures("store")]


@pytest.fixture
def files(tiny: Dataset, train: Images, store: Path) -> dict[str, Path]:
    """The LiteRT files of a small network and their manifest, by name."""
    network = build("pupil", train, 3, seed=0)
    paths = make.make(network, tiny.x_train.astype(np.float32), store, make.LITERT).paths
    own = predict_logits(network, tiny.x_test)
    judged = {path.name: judge(own, own, tiny.y_test, 0.01) for path in paths}
    content = manifest(
        network,
        tiny,
        paths,
        judged,
        source="a run",
        weights_sha256="a hash",
        calibration={},
        margin=0.01,
        not_made={},
    )
    (store / "deploy.json").write_text(json.dumps(content))
    return {path.name: path for path in paths} | {"manifest": store / "deploy.json"}


def served(files: dict[str, Path], name: str, tiny: Dataset) -> Any:
    with open_run("served", "deploy", tiny, {}) as run:
        registry.log_served(run, files[name], files["manifest"], 3)
        return mlflow.pyfunc.load_model(registry.stored_uri(run))


@pytest.mark.parametrize("name", make.LITERT)
def test_it_answers_as_the_file_does(name: str, files: dict[str, Path], tiny: Dataset) -> None:
    many = np.resize(tiny.x_test, (205, 8, 8, 3))
    expected = all_logits(open_file(files[name]), many)
    model = served(files, name, tiny)
    assert model.predict(many) == pytest.approx(expected, abs=1e-5)
    assert model.predict(many.astype(np.float32)) == pytest.approx(expected, abs=1e-5)
    assert model.predict(many[:1].tolist()) == pytest.approx(expected[:1], abs=1e-5)


def test_probabilities_come_under_the_classes_names(files: dict[str, Path], tiny: Dataset) -> None:
    model = served(files, make.FLOAT32, tiny)
    shares = model.predict(tiny.x_test, params={"probabilities": True})
    assert list(shares.columns) == ["dark", "mid", "light"]
    logits = all_logits(open_file(files[make.FLOAT32]), tiny.x_test).astype(float)
    assert shares.to_numpy() == pytest.approx(np.exp(logits) / np.exp(logits).sum(1)[:, None])


def test_what_does_not_fit_is_one_line_without_pixels(
    files: dict[str, Path], tiny: Dataset
) -> None:
    model, images = served(files, make.INT8, tiny), tiny.x_test
    black = np.zeros((2, 8, 8, 3))
    refused: list[tuple[Any, str]] = [
        (images / 255, "expected pixels from 0 to 255, got fractions from 0 to 0.9"),
        (images - 0.5, "expected pixels from 0 to 255, got values from -0.5 to"),
        (images * 2.0, "expected pixels from 0 to 255, got values from 0 to"),
        (black + np.nan, "got values from nan to nan"),
        (images[0], "expected pixels of shape (images, 8, 8, 3), got the shape (8, 8, 3)"),
        (images[..., :1], "got the shape (30, 8, 8, 1)"),
        (images[:0], "got the shape (0, 8, 8, 3)"),
        ([[1, 2], [3]], "got rows of unequal length"),
        (["a cat"], "got values that are not numbers"),
        ({"images": 1}, "got values that are not numbers"),
        (np.zeros((10_001, 8, 8, 3), np.uint8), "expected at most 10000 images in a request"),
    ]
    for given, message in refused:
        with pytest.raises(mlflow.MlflowException) as raised:
            model.predict(given)
        raised.value.message = f"Failed to predict data '{given}'"  # as the scoring server does
        assert message in raised.value.message
        assert "\n" not in raised.value.message
        assert len(raised.value.message) < 120


def test_dark_pictures_are_answered(files: dict[str, Path], tiny: Dataset) -> None:
    # all pixels are 0 or 1, as in an array that was divided by 255, but there is no fraction
    dark = np.zeros((1, 8, 8, 3), np.float32)
    dark[0, 0, 0] = 1
    assert served(files, make.FLOAT32, tiny).predict(dark).shape == (1, 3)
