"""The tracking store: runs, what they log, what earlier runs made. The only package that imports
mlflow."""

import logging
import os

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
