"""Which exports may hold the logits that a step needs."""

from dataclasses import replace

import pytest

from kdflow.config.views import Views
from kdflow.dataset import Dataset
from kdflow.needs import LogitsOf
from kdflow.results import logits
from kdflow.tracking.find import FoundRun

FEW = FoundRun("few", "0", "export_logits", {"views": "2"}, {}, {}, "", 0)
MANY = replace(FEW, run_id="many", params={"views": "18"})
BEFORE_VIEWS = replace(FEW, run_id="earlier", params={})


@pytest.mark.parametrize(
    ("views", "expected"),
    [(1, ["earlier", "few", "many"]), (2, ["few", "many"]), (3, ["many"]), (50, [])],
)
def test_exports_of_fewer_views_are_not_opened(
    views: int, expected: list[str], tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits, "find_runs", lambda _: [BEFORE_VIEWS, FEW, MANY])
    found = logits._exports("a teacher", LogitsOf("a teacher", 0.1, Views(views)), tiny)
    assert [run.run_id for run in found] == expected
