"""Which edits make a training be run again."""

import re
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from helpers import parameters

from kdflow import sources
from kdflow.steps.baseline import BaselineConfig
from kdflow.steps.distill import DistillConfig
from kdflow.steps.export_logits import ExportLogitsConfig
from kdflow.steps.teacher import TeacherConfig

PACKAGE = Path(sources.__file__).parent


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, whose code is what counts."""
    copy = tmp_path / "kdflow"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    file_of = sources._file_of

    def copied(function: Callable[..., Any]) -> Path:
        return copy / file_of(function).relative_to(PACKAGE)

    monkeypatch.setattr(sources, "PACKAGE", copy)
    monkeypatch.setattr(sources, "_file_of", copied)
    return copy


def digest(network: str = "student", loss: str = "kd") -> str:
    return sources.code_sha256.__wrapped__("distill", network, loss)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new, 1))


def test_the_copy_has_the_digest_of_the_package(package: Path) -> None:
    assert digest() == sources.code_sha256("distill", "student", "kd")


def test_comments_docstrings_and_formatting_do_not_count(package: Path) -> None:
    before = digest()
    path = package / "losses.py"
    text = re.sub(r'""".*?"""', '"""Other words."""', path.read_text(), flags=re.DOTALL)
    assert text.count("Other words.") > 3
    path.write_text(f"# a comment\n\n{text.replace('(', '(  ')}\n\n# another\n")
    assert digest() == before


@pytest.mark.parametrize(
    "unrelated",
    [
        "catalogue/networks/vgg.py",  # the one that is trained is another
        "catalogue/networks/added.py",
        "catalogue/losses/dist.py",
        "catalogue/datasets/digits.py",  # its images are in the key
        "steps/compare.py",
        "steps/added.py",
        "reuse.py",
        "training/progress.py",
        "training/speed.py",
        "evaluate/plots.py",
        "tracking/runs.py",
        "cli/process.py",
        "../README.md",
    ],
)
def test_what_only_finds_records_or_belongs_to_another_network_does_not_count(
    unrelated: str, package: Path
) -> None:
    before = digest()
    with (package / unrelated).open("a") as file:
        file.write("\nEDITED = True\n")
    assert digest() == before


@pytest.mark.parametrize(
    "shaping",
    [
        "losses.py",
        "dataset.py",
        "network.py",
        "views.py",
        "features.py",
        "image_file.py",
        "kernels/convolution.py",
        "precision.py",
        "training/loop.py",
        "training/objective.py",
        "training/optimizers.py",
        "config/fitting.py",
        "training/added.py",
        "catalogue/networks/layers.py",
        "catalogue/networks/initial.py",
        "catalogue/networks/student.py",
        "catalogue/losses/kd.py",
        "config/training.py",
        "steps/distill.py",
        "steps/training.py",
        "evaluate/metrics.py",
    ],
)
def test_what_shapes_a_training_counts(shaping: str, package: Path) -> None:
    before = digest()
    with (package / shaping).open("a") as file:
        file.write("\nEDITED = True\n")
    assert digest() != before


@pytest.mark.parametrize(
    ("step", "network", "shaping"),
    [
        ("baseline", "applications:MobileNetV2", "catalogue/networks/own.py"),
        ("baseline", "nets.py:small", "catalogue/networks/own.py"),
        ("hint", "student", "artifacts/hints.py"),
        ("export_logits", None, "artifacts/logits.py"),
    ],
)
def test_what_builds_a_network_of_ones_own_or_writes_a_result_counts_for_it_alone(
    step: str, network: str | None, shaping: str, package: Path
) -> None:
    code = sources.code_sha256.__wrapped__
    before, of_another = code(step, network, None), code("baseline", "student", None)
    with (package / shaping).open("a") as file:
        file.write("\nEDITED = True\n")
    assert code(step, network, None) != before
    assert code("baseline", "student", None) == of_another


def test_a_changed_number_in_a_loss_counts(package: Path) -> None:
    before = digest()
    replace(package / "losses.py", "axis=-1", "axis=0")
    assert digest() != before


@pytest.mark.parametrize("package_name", ["keras", "tensorflow", "numpy"])
def test_another_version_of_keras_its_backend_or_numpy_counts(
    package_name: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest()

    def other(name: str) -> str:
        return "0.0" if name == package_name else metadata.version(name)

    monkeypatch.setattr(sources, "version", other)
    assert digest() != before


def test_each_network_and_loss_has_a_digest_of_its_own() -> None:
    configs = [
        parameters(DistillConfig),
        parameters(DistillConfig, loss="dkd"),
        parameters(DistillConfig, student="pupil"),
        parameters(BaselineConfig),
        parameters(TeacherConfig, arch="fast"),
        parameters(ExportLogitsConfig),
    ]
    assert len({sources.code_of("distill", config.used()) for config in configs}) == len(configs)
    again = sources.code_of("distill", parameters(DistillConfig, temp=8, seed=3).used())
    assert again == sources.code_of("distill", parameters(DistillConfig).used())
    assert again != sources.code_of("teacher", parameters(DistillConfig).used())


def test_a_loss_that_has_left_the_catalogue_has_a_digest() -> None:
    """A run that was made with it can still be deployed."""
    assert digest(loss="left") not in {
        digest(),
        sources.code_sha256.__wrapped__("baseline", None, None),
    }
