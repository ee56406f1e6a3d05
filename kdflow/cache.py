"""The folder of what is kept between runs: downloaded data, and hints during a training."""

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """$KDFLOW_CACHE, or the user's cache folder."""
    return Path(os.environ.get("KDFLOW_CACHE") or platformdirs.user_cache_dir("kdflow"))
