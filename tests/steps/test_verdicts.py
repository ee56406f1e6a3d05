"""What a verdict on a file decides: whether it is registered, and whether it is promoted."""

from unittest import mock

import numpy as np
import pytest

from kdflow.deploy.judge import Judged, judge
from kdflow.errors import KdflowError
from kdflow.steps import deploy, registration
from kdflow.tracking import registry


def judged(images: int, wrong: int) -> Judged:
    """A file that is wrong on some images, of a network that is always right."""
    labels = np.zeros(images, int)
    right = np.eye(3)[labels]
    of_file = right.copy()
    of_file[:wrong] = [0, 1, 0]
    return judge(of_file, right, labels, margin=0.01)


def test_a_file_that_is_in_doubt_is_named_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    deploy._refuse_worse({"a file": judged(267, wrong=0)}, margin=1)
    assert capsys.readouterr().out == (
        "The test set is too small to tell whether a file loses more than 1 percentage point; the"
        " difference is +0.00 [-1.00, +1.00] points on 267 test images. Use more test images or"
        " a larger margin.\n"
    )


def test_a_file_that_loses_nothing_of_enough_images_needs_no_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    deploy._refuse_worse({"a file": judged(268, wrong=0)}, margin=1)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_shown_to_lose_more_is_refused() -> None:
    with pytest.raises(
        KdflowError, match=r"a file is worse .* than 1 percentage point; .* -10\.00"
    ):
        deploy._refuse_worse({"a file": judged(1000, wrong=100)}, margin=1)


@pytest.mark.parametrize(("verdict", "promoted"), [("SAME", True), ("INCONCLUSIVE", False)])
def test_without_a_champion_a_version_is_promoted_if_it_is_as_good_as_keras(
    verdict: str,
    promoted: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(registry, "champion", lambda _: None)
    promote, run = mock.Mock(), mock.Mock()
    monkeypatch.setattr(registry, "promote", promote)
    version = mock.Mock(tags={"kdflow.verdict": verdict})
    registration._promote(run, mock.Mock(), mock.Mock(), version)
    assert promote.call_args_list == ([mock.call(version)] if promoted else [])
    run.set_tags.assert_called_once_with({"kdflow.promoted": str(promoted).lower()})
    assert f"there is no champion yet; verdict against Keras: {verdict}" in capsys.readouterr().out
