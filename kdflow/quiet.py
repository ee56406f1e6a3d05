"""Hold back what native libraries write while they load or work."""

import contextlib
import os
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def native_output_suppressed(*, shown_if_it_fails: bool) -> Iterator[None]:
    """Hold back what is written to stderr in the block: TensorFlow and LiteRT write lines that no
    setting silences.

    Args:
        shown_if_it_fails: whether it is written after all if the block raises.
    """
    with tempfile.TemporaryFile() as written:
        stderr = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            if shown_if_it_fails:
                written.seek(0)
                os.write(stderr, written.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
