"""A network whose int8 file loses too much is fine-tuned."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from helpers import parameters

from kdflow.config.deploy import DeployConfig
from kdflow.config.fitting import Settings
from kdflow.config.views import Views
from kdflow.dataset import Dataset, Images
from kdflow.deploy.pixels import exportable
from kdflow.deploy.simulated import simulated
from kdflow.network import build, weights_sha256
from kdflow.results.records import TrainedModel
from kdflow.steps import quantised
from kdflow.training.loop import fit
from kdflow.training.objective import Labels

pytestmark = pytest.mark.slow


class LoggedRun:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[float]] = {}

    def log(self, metrics: dict[str, float], epoch: int | None = None) -> None:
        for name, value in metrics.items():
            self.metrics.setdefault(name, []).append(value)


@pytest.fixture
def model(train: Images, validation: Images) -> TrainedModel:
    """A network that tells the classes of `tiny` apart."""
    network = build("pupil", train, 3, seed=0)
    list(fit(network, train, validation, Labels(), Settings("adam", 0.01, 12, 8, seed=0)))
    return TrainedModel("sha256:x", network, weights_sha256(network), 0.1, "a pupil")


WRITTEN: dict[str, keras.Model] = {}  # the network of each file, by the file's text


@pytest.fixture
def two_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose weights have two bits, which cost any network a lot."""

    def open_file(path: Path) -> Any:
        network = simulated(WRITTEN[path.read_text()], 2)
        return SimpleNamespace(logits=lambda pixels: network.predict(pixels, verbose=0))

    monkeypatch.setattr(quantised, "simulated", lambda network, bits: simulated(network, 2))
    monkeypatch.setattr(quantised, "open_file", open_file)


def adapted(
    model: TrainedModel, tiny: Dataset, path: Path, **given: Any
) -> tuple[dict[str, Any] | None, dict[str, list[float]]]:
    """What `adapt` returns, and what it logs."""
    config, run = DeployConfig(dataset="digits", **given), LoggedRun()

    def write(network: keras.Model) -> None:
        path.write_text("again")
        WRITTEN["again"] = network

    path.write_text("plain")
    WRITTEN["plain"] = exportable(model.network)
    note = quantised.fine_tune_if_worse(run, config, tiny, model, None, path, write)  # type: ignore[arg-type]
    return note, run.metrics


@pytest.mark.usefixtures("two_bits")
def test_it_learns_until_its_file_loses_less(
    model: TrainedModel, tiny: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model.network.get_weights()
    note, logged = adapted(model, tiny, tmp_path / "file", quantised_epochs=12)
    (lost_before,), (lost_after,) = (
        logged[f"quantised_lost_{when}"] for when in ("before", "after")
    )
    assert lost_before > 10  # of six images
    assert lost_after < lost_before / 2
    assert len(logged["quantised_val_accuracy"]) == 12
    assert (tmp_path / "file").read_text() == "again"
    assert note == {
        **{"epochs": 12, "from": "its own logits", "of": "validation images"},
        **{"lost_points_before": lost_before, "lost_points_after": lost_after},
    }
    assert (
        f"loses {lost_after:.2f} points after quantisation-aware distillation"
        in capsys.readouterr().out
    )
    assert all(map(np.array_equal, before, model.network.get_weights()))  # a copy has learnt


@pytest.mark.usefixtures("two_bits")
def test_a_file_that_is_no_better_afterwards_is_not_kept(
    model: TrainedModel, tiny: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "LEARNING_RATE", 1e-30)
    note, logged = adapted(model, tiny, tmp_path / "file", quantised_epochs=1)
    assert note is None
    assert logged["quantised_lost_after"] == logged["quantised_lost_before"]
    assert (tmp_path / "file").read_text() == "plain"


@pytest.mark.usefixtures("two_bits")
@pytest.mark.parametrize("given", [{"margin": 100}, {"quantised_epochs": 0}])
def test_within_the_margin_or_without_epochs_nothing_is_trained(
    given: dict[str, float], model: TrainedModel, tiny: Dataset, tmp_path: Path
) -> None:
    note, logged = adapted(model, tiny, tmp_path / "file", **given)
    assert note is None
    assert set(logged) == {"quantised_lost_before"}
    assert (tmp_path / "file").read_text() == "plain"


def test_the_files_of_a_distillation_may_have_moved_since(
    model: TrainedModel, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {"dataset": "/gone/", "student": "/gone/net.keras", "teacher": "/gone/t.keras"}
    of_another_version = {"removed_since": 1}
    values = {**gone, **of_another_version, "temp": 8.0, "alpha": 0.5, "views": 2, "holdout": 0.1}
    monkeypatch.setattr("kdflow.steps.quantised.artifacts.read_json", lambda *_: values)
    monkeypatch.setattr(quantised, "get_run", lambda _: None)
    monkeypatch.setattr("kdflow.steps.quantised.distill.objective", lambda config, *_: config)
    taught: Any = SimpleNamespace(logits=SimpleNamespace(manifest=SimpleNamespace(network="t")))
    dataset = replace(tiny, name="digits")
    lessons: Any = quantised._fine_tuning(parameters(DeployConfig), dataset, model, taught)
    assert (lessons.objective.temp, lessons.objective.alpha, lessons.views) == (8, 0.5, Views(2))


@pytest.mark.usefixtures("two_bits")
def test_its_weights_follow_from_the_seed(
    model: TrainedModel, tiny: Dataset, tmp_path: Path
) -> None:
    found = []
    for before in (1, 2):  # what ran before in the process
        keras.utils.set_random_seed(before)
        adapted(model, tiny, tmp_path / "file", quantised_epochs=2)
        found.append(WRITTEN["again"].get_weights())
    assert all(map(np.array_equal, *found))
