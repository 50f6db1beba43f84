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


# What several tests of training look at; each is made once.


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with some wrong labels."""
    from made_training import noisy_digits

    return noisy_digits(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images to test on, with right labels."""
    from made_training import held_out_digits

    return held_out_digits(tmp_path_factory.mktemp("checked"))


@pytest.fixture(scope="session")
def audit_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of the photos."""
    from made_training import AUDIT, done, set_

    out = tmp_path_factory.mktemp("audits") / "audit"
    done("audit", photos, "--out", out, *set_(*AUDIT))
    return out


@pytest.fixture(scope="session")
def row_run(photos: Path, checked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of a classifier on features, from the photos."""
    from made_training import ON_ROWS, WITH_AUDIT, done

    out = tmp_path_factory.mktemp("models") / "rows"
    done("train", photos, "--test", checked, "--out", out, *WITH_AUDIT, *ON_ROWS)
    return out


@pytest.fixture(scope="session")
def network_run(audit_run: Path, checked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of a small network, from an audit."""
    from made_training import ON_IMAGES, done

    out = tmp_path_factory.mktemp("models") / "network"
    done("train", audit_run, "--test", checked, "--out", out, *ON_IMAGES)
    return out
