"""The bundled teacher, verified on the real CIFAR-10."""

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from kdflow import data, logits, views
from kdflow.__main__ import main
from kdflow.data import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate import predict_logits
from kdflow.models import weights_sha256
from kdflow.steps import bundled, teacher


@pytest.fixture(scope="module")
def cifar10() -> Dataset:
    try:
        return data.load("cifar10")
    except KdflowError as error:
        pytest.skip(str(error))


def test_the_bundle_is_small() -> None:
    megabytes = {
        name: sum(file.stat().st_size for file in bundled.FOLDER.glob(name)) / 1e6
        for name in ("logits/*", "weights.npz")
    }
    assert megabytes["logits/*"] < 3
    assert megabytes["weights.npz"] < 4


def test_the_logits_belong_to_cifar10_and_are_those_of_a_strong_teacher(cifar10: Dataset) -> None:
    read = logits.read(bundled.LOGITS, cifar10, views=2)
    assert read.train.dtype == np.float16
    assert (read.test[0].argmax(1) == cifar10.y_test).mean() >= 0.93
    assert read.manifest.holdout == bundled.about()["config"]["holdout"] == 0.1


def test_the_weights_give_the_logits(cifar10: Dataset) -> None:
    network = bundled.load_network(cifar10)
    read = logits.read(bundled.LOGITS, cifar10, views=2)
    assert weights_sha256(network) == read.manifest.weights_sha256
    for images, stored in ((cifar10.x_train, read.train), (cifar10.x_test, read.test)):
        for view in range(2):
            shown = views.apply(images[-500:], np.full(500, view))
            np.testing.assert_allclose(
                predict_logits(network, shown), stored[view, -500:], atol=0.05
            )


def test_it_is_the_automatic_teacher_of_cifar10_with_its_own_holdout(
    cifar10: Dataset, tiny: Dataset
) -> None:
    assert bundled.fits("auto", cifar10, 0.1)
    assert bundled.fits("auto", cifar10, 0)
    assert not bundled.fits("fast", cifar10, 0.1)
    assert not bundled.fits("auto", cifar10, 0.2)
    assert not bundled.fits("auto", tiny, 0.1)
    # the same images from a file, whose classes have other names
    assert not bundled.fits("auto", replace(cifar10, name="mine.npz"), 0.1)


@pytest.mark.slow
def test_on_an_empty_store_distill_imports_it_as_runs_and_finds_them_again(
    cifar10: Dataset, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "--temp", "8", "--epochs", "1"]) == 0
    assert "teacher: imported the bundled fast" in capsys.readouterr().out
    client = mlflow.MlflowClient()
    distilled, export, teacher = client.search_runs(["0"], order_by=["attributes.start_time ASC"])
    assert teacher.info.run_name == "teacher fast (bundled)"
    assert export.data.tags["kdflow.upstream.model"] == teacher.info.run_id
    assert distilled.data.tags["kdflow.upstream.teacher"] == export.info.run_id
    accuracy = export.data.metrics["test_accuracy"]
    assert teacher.data.metrics["test_accuracy"] == pytest.approx(accuracy, abs=0.001)

    assert main(["distill", "--temp", "4", "--epochs", "1", "--views", "2"]) == 0
    assert f"logits: found in {export.info.run_id}" in capsys.readouterr().out
    assert len(client.search_runs(["0"])) == 4


def test_auto_says_that_the_bundled_teacher_had_another_holdout(
    tiny: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KdflowError("no further")

    described = bundled.about() | {"dataset_digest": tiny.digest}
    monkeypatch.setattr(bundled, "about", lambda: described)
    monkeypatch.setattr(teacher, "run", stop)
    with pytest.raises(KdflowError, match="no further"):
        teacher.make("auto", replace(tiny, name="cifar10"), 0.2)
    told = capsys.readouterr().out
    assert "comes with kdflow was trained with holdout=0.1, not 0.2; it does not fit" in told
    assert "no vgg at its default settings in the store; training one" in told
