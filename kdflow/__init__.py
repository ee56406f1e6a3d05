"""Knowledge distillation in which every step is a tracked, reusable MLflow run."""

import logging
import os
import platform

# TensorFlow reports every start of its runtime; only what stops it is of use to a user. It reads
# these variables when it is imported, so they stand before anything that could import it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two processes can share a GPU only if neither takes all of its memory at once.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# TensorFlow's faster convolutions and pools, which it leaves unused on processors without AVX-512.
if platform.machine() in {"x86_64", "AMD64"}:
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# Advice on retracing, which does not apply: each network is traced once per shape of batch.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
# A `keras.json` in the user's home could set another backend; only KERAS_BACKEND may.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
