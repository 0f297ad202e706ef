"""Real data that packages ship, and how processes are started: one that imports a framework takes seconds, so most are forked."""

import multiprocessing
import os
from typing import Any

import absl.flags
import numpy as np
import pytest
import pywt.data
from sklearn.datasets import load_digits

import swath

# Each is read when a framework is imported. Credentials are not handed to processes; the S3 of the tests takes any.
os.environ |= {"KERAS_BACKEND": "torch", "JAX_PLATFORMS": "cpu"}
os.environ |= {"AWS_ACCESS_KEY_ID": "swath", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests"}
absl.flags.FLAGS.mark_as_parsed()  # as `absl.app.run` does: Grain asks for them
_forkserver: Any = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["torch", "swath.loaders.torch"])


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> swath.RowGroup:
    """Handwritten digits, 1797 pictures of 8 by 8 from 0 to 1, and which they are."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = (pictures / 16).astype("f4").reshape(-1, 8, 8)
    return swath.ingest_group({"X": pictures, "y": labels}, tmp_path_factory.mktemp("digits") / "g", window=1)


@pytest.fixture(scope="session")
def heart(tmp_path_factory: pytest.TempPathFactory) -> swath.RowArray:
    """An electrocardiogram, of mean 0 and deviation 1, in windows of 33 samples: a last one, and the 32 before it."""
    samples = pywt.data.ecg().astype("f4")
    samples = (samples - samples.mean()) / np.std(samples)
    return swath.ingest(samples[:, None], tmp_path_factory.mktemp("heart") / "a", window=33)
