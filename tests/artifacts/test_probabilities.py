"""A folder of probabilities is read as the logits that give them."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from kdflow.artifacts import logits
from kdflow.artifacts.probabilities import SMALLEST, as_logits
from kdflow.dataset import Dataset
from kdflow.errors import KdflowError


def likely(dataset: Dataset, split: str) -> np.ndarray:
    """The logits of a teacher that is right, (images, classes)."""
    labels = getattr(dataset, f"y_{split}")
    noise = np.random.default_rng(1).normal(size=(len(labels), dataset.classes))
    return np.asarray(noise + 5 * np.eye(dataset.classes)[labels], np.float32)


def saved(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    folder.mkdir()
    np.save(folder / "train_probabilities.npy", train)
    np.save(folder / "test_probabilities.npy", test)
    return folder


@pytest.mark.parametrize("temp", [0.5, 1, 4, 20])
def test_the_soft_targets_are_those_of_the_logits_at_every_temperature(
    tiny: Dataset, tmp_path: Path, temp: float
) -> None:
    train, test = likely(tiny, "train"), likely(tiny, "test")
    folder = saved(tmp_path / "p", softmax(train, axis=-1), softmax(test, axis=-1))
    read = logits.read(as_logits(folder, tiny), tiny)
    for found, given in ((read.train, train), (read.test, test)):
        assert found.shape == (1, *given.shape)
        np.testing.assert_allclose(
            softmax(found[0] / temp, axis=-1), softmax(given / temp, axis=-1), rtol=2e-5, atol=1e-9
        )


def test_zeros_are_counted_and_printed(
    tiny: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certain = np.eye(3, dtype=np.float32)
    folder = saved(tmp_path / "p", certain[tiny.y_train], certain[tiny.y_test])
    read = logits.read(as_logits(folder, tiny), tiny)
    assert "values: 180 of 270 probabilities are 0; they are taken as 1.2e-38" in (
        capsys.readouterr().out
    )
    assert read.train.min() == np.float32(np.log(SMALLEST))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: np.log(p),
            r"sum to 1 in .*train_prob.*, got numbers from -\S+ to -\S+ .values=l",
        ),
        (lambda p: 2 * p, r"expected rows of probabilities that sum to 1 .*, got numbers from 0"),
        (lambda p: p.round(2), r"sum to 1 in .*, got sums from 0.99\d? to 1.01\d?; save them with"),
        (lambda p: (100 * p).astype(int), r"expected floating-point probabilities .* got int64"),
        (lambda p: p[:, 0], r"expected floating-point probabilities .* got float32 \(60,\)"),
        (lambda p: p[:-1], r"expected float16 or float32 \(views, 60, 3\) on the train images"),
    ],
    ids=["logits", "sums", "two decimals", "integers", "a single column", "an image too few"],
)
def test_what_are_no_probabilities_of_these_images_is_refused(
    tiny: Dataset, tmp_path: Path, change: object, message: str
) -> None:
    train, test = (softmax(likely(tiny, split), axis=-1) for split in ("train", "test"))
    folder = saved(tmp_path / "p", change(train), test)  # type: ignore[operator]
    with pytest.raises(KdflowError, match=message):
        as_logits(folder, tiny)


def test_a_missing_file_is_named(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KdflowError, match=r"values: expected an array of prob.*train_prob"):
        as_logits(tmp_path, tiny)


def test_rows_in_another_order_are_refused(tiny: Dataset, tmp_path: Path) -> None:
    train, test = (softmax(likely(tiny, split), axis=-1) for split in ("train", "test"))
    folder = saved(tmp_path / "p", np.roll(train, 1, axis=0), test)
    with pytest.raises(KdflowError, match="expected rows in the order"):
        as_logits(folder, tiny)
