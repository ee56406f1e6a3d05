"""A registered file, asked over HTTP."""

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from helpers import command_line, environment, made_by, needs_deploy, wait_for
from mlflow.entities import Run

from kdflow.evaluate.metrics import predict_logits
from kdflow.steps.run import load

pytestmark = [needs_deploy, pytest.mark.slow, pytest.mark.usefixtures("shared_store")]

DIGITS = load("digits", 0.1)


@pytest.fixture(scope="module")
def address(first: list[Run], shared_store: Path) -> Iterator[str]:
    """Where the float32 file of the distilled student is served."""
    argv = ["deploy", "--dataset", "digits", "--margin", "5", "--onnx", "false"]
    flags = ["--serve", "float32", "--register", "served", "--promote", "true"]
    made_by([*argv, *flags])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = shared_store / "server.log"
    command = command_line("mlflow", "models", "serve", "--env-manager", "local")
    with (
        log.open("w") as written,
        subprocess.Popen(
            [*command, "-m", "models:/served@champion", "-p", str(port)],
            env=environment(shared_store),
            stdout=written,
            stderr=written,
        ) as server,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: answers(f"{url}/ping"), log)
            yield f"{url}/invocations"
        finally:
            server.terminate()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def asked(address: str, **body: Any) -> tuple[int, Any]:
    """The status and the content of an answer."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_logits_are_those_of_the_keras_model(address: str, first: list[Run]) -> None:
    images = np.resize(DIGITS.x_test, (1000, 8, 8, 1))
    model = mlflow.keras.load_model(f"runs:/{first[0].info.run_id}/model")
    status, answer = asked(address, inputs=images.tolist())
    assert status == 200
    logits = np.array(answer["predictions"])
    assert logits == pytest.approx(predict_logits(model, images), abs=1e-4)


def test_probabilities_come_by_the_classes_names(address: str) -> None:
    params = {"probabilities": True}
    _, answer = asked(address, inputs=DIGITS.x_test[:2].tolist(), params=params)
    first, _ = answer["predictions"]
    assert list(first) == [str(digit) for digit in range(10)]
    assert sum(first.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (DIGITS.x_test[:2] / 255, "expected pixels from 0 to 255, got fractions from 0 to 1; "),
        (DIGITS.x_test[0], "expected pixels of shape (images, 8, 8, 1), got the shape (8, 8, 1)"),
        (np.zeros((10_001, 8, 8, 1), int), "expected at most 10000 images in a request, got 10001"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    pixels: np.ndarray, message: str, address: str
) -> None:
    status, answer = asked(address, inputs=pixels.tolist())
    assert status == 400
    assert answer["message"].startswith(message)
    assert len(answer["message"]) < 120
