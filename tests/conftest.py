"""What all tests share: one thread (faster on a busy machine, and the same bits everywhere)."""

from __future__ import annotations

import os
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy and torch read them

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("here", deadline=None, max_examples=30)
settings.load_profile("here")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Real image sets, kept beside the repository where there are any."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no image sets at {SHARED_DATA}; this test needs real ones")
    return SHARED_DATA
