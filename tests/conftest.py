"""Shared fixtures: where the real data lies, tiny tokenizers and models, loopback servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Shared machines are slow at random: how long an example takes says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, or a clear skip."""
    folder = Path(os.environ.get("MAIEUTIC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MAIEUTIC_DATA")
    return folder


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a tiny user simulator, trained until it knows its three conversations and their end."""
    from trained import simulator as trained

    return trained(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by LoRA."""
    from trained import simulator as trained

    return trained(tmp_path_factory.mktemp("adapted"), lora_r=8)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where every optional library should be there (`make test-all`), a test that misses one fails."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("MAIEUTIC_TEST_ALL") and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2])
        if "could not import" in reason or "is not installed" in reason:
            report.outcome, report.longrepr = "failed", f"an optional library is missing: {reason}"
