"""The teacher that comes with kdflow, verified on the real CIFAR-10."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import made_by, parameters, runs

from kdflow import bundle, views
from kdflow.__main__ import main
from kdflow.artifacts import logits
from kdflow.cache import cache_folder
from kdflow.config.views import Views
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError
from kdflow.evaluate.metrics import predict_logits
from kdflow.needs import LogitsOf, ModelOf, Planned
from kdflow.network import weights_sha256
from kdflow.resume import _checkpoint_name
from kdflow.reuse import Resolver
from kdflow.steps.bundled import BUNDLED
from kdflow.steps.estimate import duration_estimator
from kdflow.steps.plan import lines
from kdflow.steps.run import ALL_STEPS, load
from kdflow.steps.teacher import TeacherConfig


@pytest.fixture(scope="module")
def cifar10() -> Dataset:
    try:
        return load("cifar10", 0.1)
    except KdflowError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def user_cache() -> Path:
    """Where CIFAR-10 is kept, before a store brings a cache of its own."""
    return cache_folder()


@pytest.fixture
def stand_in(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Small images that pass for CIFAR-10."""
    described = bundle.metadata() | {"dataset_digest": tiny.digest}
    monkeypatch.setattr(bundle, "metadata", lambda: described)
    return replace(tiny, name="cifar10")


def test_the_bundle_is_small() -> None:
    megabytes = {
        name: sum(file.stat().st_size for file in bundle.FOLDER.glob(name)) / 1e6
        for name in ("logits/*", "weights.npz")
    }
    assert megabytes["logits/*"] < 3
    assert megabytes["weights.npz"] < 4


def test_it_says_every_setting_that_it_was_trained_with() -> None:
    # what it leaves out would be filled in from a later version's defaults
    config = bundle.metadata()["config"]
    assert parameters(TeacherConfig, **config).used() == config


def test_it_is_the_automatic_teacher_of_cifar10_with_its_own_holdout(
    stand_in: Dataset, tiny: Dataset
) -> None:
    assert bundle.fits("auto", stand_in, 0.1)
    assert bundle.fits("auto", stand_in, 0)
    assert not bundle.fits("fast", stand_in, 0.1)
    assert not bundle.fits("auto", stand_in, 0.2)
    assert not bundle.fits("auto", tiny, 0.1)
    # the same images from a file, whose classes have other names
    assert not bundle.fits("auto", replace(stand_in, name="mine.npz"), 0.1)
    # other images under that name
    assert not bundle.fits("auto", replace(stand_in, x_train=255 - stand_in.x_train), 0.1)


@pytest.mark.usefixtures("shared_store")
def test_auto_says_that_the_bundled_teacher_had_another_holdout(
    stand_in: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Resolver(ALL_STEPS, stand_in).plan(ModelOf("auto", 0.2))
    assert isinstance(plan, Planned)
    assert (plan.step.name, plan.title) == ("teacher", "s0 teacher vgg")
    expected = "the bundled teacher was trained with holdout=0.1, not 0.2; it is not used\n"
    assert capsys.readouterr().out.count(expected) == 1


@pytest.mark.usefixtures("shared_store")
def test_the_plan_says_that_it_is_imported_and_not_trained(
    stand_in: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    resolver = Resolver(ALL_STEPS, stand_in)
    plan = resolver.plan(LogitsOf("auto", 0.1))
    assert list(lines(resolver, [plan], duration_estimator(stand_in))) == [
        "  import  bundled teacher fast",  # which takes no time
        "  export  views=2 export_logits auto",  # it comes with the logits of two
    ]
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_logits_belong_to_cifar10_and_are_those_of_a_strong_teacher(cifar10: Dataset) -> None:
    read = logits.read(bundle.LOGITS, cifar10, views=Views(2))
    assert read.train.dtype == np.float16
    assert (read.test[0].argmax(1) == cifar10.y_test).mean() >= 0.93
    assert read.manifest.holdout == bundle.metadata()["config"]["holdout"] == 0.1


@pytest.mark.slow
def test_the_weights_give_the_logits(cifar10: Dataset) -> None:
    network = bundle.load_network(cifar10)
    read = logits.read(bundle.LOGITS, cifar10, views=Views(2))
    assert weights_sha256(network) == read.manifest.weights_sha256
    for images, stored in ((cifar10.x_train, read.train), (cifar10.x_test, read.test)):
        for view in range(len(stored)):
            shown = views.apply(images[-500:], np.full(500, view))
            np.testing.assert_allclose(
                predict_logits(network, shown), stored[view, -500:], atol=0.05
            )


@pytest.mark.slow
def test_on_an_empty_store_distill_imports_it_as_runs_and_finds_them_again(
    cifar10: Dataset,
    user_cache: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KDFLOW_CACHE", str(user_cache))
    distilled, export, teacher = made_by(["distill", "--temp", "8", "--epochs", "1"])
    assert "  import  bundled teacher fast\n" in capsys.readouterr().out
    assert teacher.info.run_name == "bundled teacher fast"
    assert export.data.tags["kdflow.upstream.model"] == teacher.info.run_id
    assert distilled.data.tags["kdflow.upstream.teacher"] == export.info.run_id
    accuracy = export.data.metrics["test_accuracy"]
    assert teacher.data.metrics["test_accuracy"] == pytest.approx(accuracy, abs=0.001)

    assert main(["distill", "--temp", "4", "--epochs", "1", "--views", "2"]) == 0
    assert f"  found   logits of fast, {export.info.run_id}," in capsys.readouterr().out
    assert len(runs()) == 4


def test_an_interrupted_training_of_the_same_teacher_is_not_taken_over(stand_in: Dataset) -> None:
    config = parameters(TeacherConfig, arch="fast", learning_rate=0.75)
    imported, trained = (
        _checkpoint_name(Planned(step, config), stand_in, config.used())
        for step in (BUNDLED, ALL_STEPS["teacher"])
    )
    assert imported != trained
