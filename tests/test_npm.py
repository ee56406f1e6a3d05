from pathlib import Path

import pytest

from kdflow import npm
from kdflow.errors import KdflowError


def test_an_npm_failure_gives_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'no such package' >&2\nexit 3\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(KdflowError, match="no such package"):
        npm.pack("x@1", 10, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(KdflowError, match="npm is not installed"):
        npm.pack("x@1", 10, tmp_path)
