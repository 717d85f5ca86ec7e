"""Settings that must be there before PyTorch is loaded: few threads, that wait asleep."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Files that take longest, begun first, so that processes which share the suite end together.
LONGEST = (
    "test_pipeline",
    "test_docs",
    "test_session",
    "test_fit",
    "test_real",
    "test_gpu",
    "test_cutouts",
    "test_faults",
    "test_boosting",
    "test_browser",
)


def pytest_collection_modifyitems(items):
    """Put the longest files first; within and after them the order stays."""
    rank = {f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
