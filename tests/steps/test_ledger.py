"""Which training each figure of `main` and `assistant` is of, without any training."""

from unittest import mock

import pytest
from helpers import parameters

from kdflow.results.records import StepResult
from kdflow.steps import assistant, ledger, main


@pytest.fixture(autouse=True)
def no_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "log_ledger", lambda *_: None)
    for name in ("teacher_row", "row"):
        monkeypatch.setattr(ledger, name, lambda *_: {"network": "any"})


def with_accuracy(accuracy: float) -> StepResult:
    return StepResult("any", {"test_accuracy": accuracy})


def test_the_last_network_of_a_chain_is_set_beside_its_controls() -> None:
    config = parameters(assistant.AssistantConfig, dataset="digits", chain="pupil,student,pupil")
    run = mock.Mock()
    found = assistant.run(
        run,
        config,
        mock.Mock(),
        teacher=mock.Mock(),
        alone=with_accuracy(0.1),
        straight=with_accuracy(0.2),
        hop_1=with_accuracy(0.3),
        hop_2=with_accuracy(0.4),
    )
    assert found == {
        "test_accuracy": 0.4,
        "baseline_test_accuracy": 0.1,
        "straight_test_accuracy": 0.2,
    }
    run.log.assert_called_once_with(found)


def test_main_names_each_accuracy_by_how_the_network_learnt() -> None:
    config = parameters(main.MainConfig, dataset="digits")
    roles = ("alone", "hint", "kd", "hint_kd", "pupil", "pupil_alone", "pupil_straight")
    results = {role: with_accuracy(number / 10) for number, role in enumerate(roles)}
    run = mock.Mock()
    found = main.run(run, config, mock.Mock(), teacher=mock.Mock(), **results)
    assert found == {
        "baseline_test_accuracy": 0.0,
        "kd_test_accuracy": 0.2,
        "hint_kd_test_accuracy": 0.3,
        "pupil_test_accuracy": 0.4,
        "pupil_baseline_test_accuracy": 0.5,
        "pupil_straight_test_accuracy": 0.6,
    }
    run.log.assert_called_once_with(found)
