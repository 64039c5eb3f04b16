"""Device and precision are chosen and checked; a result's provenance; memory that training on CPU keeps."""

import sys

import pytest
import torch

from src.common.files import InputError
from src.training.machine import Machine, choose_machine, find_device


def test_device_and_precision_are_chosen():
    chosen = choose_machine()
    assert chosen.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert chosen.precision in ("float32", "bfloat16")
    for precision in ("float32", "bfloat16"):
        assert choose_machine("cpu", precision) == Machine(torch.device("cpu"), precision)


@pytest.mark.parametrize("name", ["abacus", "", "cpu:x", "cuda:99", "meta", "vulkan"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(InputError, match=f"--device {name}: not available here"):
        find_device(name)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_matrix_products_are_of_its_precision(precision, dtype):
    with Machine(torch.device("cpu"), precision).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_the_provenance_says_what_a_result_depends_on(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_mrr.py", "--lr", "1"])
    provenance = Machine(torch.device("cpu"), "bfloat16").provenance()
    assert provenance.command == "train_mrr.py --lr 1"
    assert (provenance.device, provenance.precision) == ("cpu", "bfloat16")
    assert provenance.threads == torch.get_num_threads()
    assert provenance.versions["torch"] == torch.__version__.split("+")[0]
    assert {"python", "numpy", "pandas", "safetensors"} <= provenance.versions.keys()


COUNT_PAGES = """
import resource, torch
from src.training.machine import keep_freed_memory

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
def test_freed_memory_is_used_again_told_by_the_pages_that_the_system_hands_out(run_script, tmp_path):
    (tmp_path / "count_pages.py").write_text(COUNT_PAGES)
    result = run_script(tmp_path / "count_pages.py")
    assert result.returncode == 0, result.stderr
    given_back, kept = map(int, result.stdout.split())
    assert given_back > 100
    assert kept < given_back / 20


def test_of_several_processes_each_has_a_gpu_of_its_own(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: torch.ones(1))
    assert find_device("auto") == find_device("cuda") == torch.device("cuda:3")
    assert find_device("cuda:1") == torch.device("cuda:1")
    assert find_device("cpu") == torch.device("cpu")
