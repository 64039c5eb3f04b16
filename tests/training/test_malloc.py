"""Freed memory is used again instead of being asked for anew: told by the pages that the system hands out."""

import sys

import pytest

COUNT_PAGES = """
import resource, torch
from src.training.malloc import keep_freed_memory

def pages_of_twenty_tensors():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16_000_000)  # 64 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = pages_of_twenty_tensors()
keep_freed_memory()
pages_of_twenty_tensors()
print(given_back, pages_of_twenty_tensors())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc's malloc that is told")
def test_freed_memory_is_kept(run_script, tmp_path):
    (tmp_path / "count_pages.py").write_text(COUNT_PAGES)
    result = run_script(tmp_path / "count_pages.py")
    assert result.returncode == 0, result.stderr
    given_back, kept = map(int, result.stdout.split())
    assert given_back > 100
    assert kept < given_back / 20
