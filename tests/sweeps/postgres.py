"""A PostgreSQL server of the tests' own, on a loopback port, as the user `postgres` where the tests
run as root: it refuses to run as that."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def binary(name: str) -> str | None:
    """Where a program of PostgreSQL is: on the path, or where Debian keeps it."""
    found = [shutil.which(name), *map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    return next((path for path in found if path), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A running server; yields the URL that databases' names go after."""
    user = "postgres" if os.geteuid() == 0 else None
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if user:
            shutil.chown(place, user)

        def run(program: str, *arguments: str) -> None:
            found = binary(program)
            assert found
            subprocess.run(
                [found, *arguments],
                check=True,
                user=user,
                cwd=place,
                stdout=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            )

        options = f"-h 127.0.0.1 -p {port} -k {place}"
        run("initdb", "-D", f"{place}/data", "-U", "kdflow", "-A", "trust", "-E", "UTF8")
        run("pg_ctl", "-D", f"{place}/data", "-o", options, "-l", f"{place}/log", "-w", "start")
        try:
            for database in ("tracking", "studies"):
                run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "kdflow", database)
            yield f"postgresql+psycopg://kdflow@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", f"{place}/data", "-m", "immediate", "stop")
