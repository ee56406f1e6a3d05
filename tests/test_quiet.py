import os

import pytest

from kdflow.quiet import native_output_suppressed


@pytest.mark.parametrize(
    ("shown_if_it_fails", "error", "shown"),
    [(True, None, ""), (False, None, ""), (True, ImportError, "a reason"), (False, OSError, "")],
)
def test_what_libraries_say_is_shown_only_if_they_fail(
    shown_if_it_fails: bool,
    error: type[Exception] | None,
    shown: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def work() -> None:
        with native_output_suppressed(shown_if_it_fails=shown_if_it_fails):
            os.write(2, b"a reason")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert capfd.readouterr().err == shown
    os.write(2, b"later")
    assert capfd.readouterr().err == "later"
