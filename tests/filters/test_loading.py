"""Workers: as fast as shared memory allows, and one line, never a wait without end, whatever they lack."""

import os
import resource

import numpy as np
import pytest
import torch

import src.filters.loading
from src.common.files import InputError
from src.data.pairs import open_pairs
from src.filters.clip_model import load_clip
from src.filters.loading import ImageBatches, load_batches, worker_deaths_told
from src.filters.pictures import ImageFolder

TODO = [0, 2, 3]


@pytest.fixture(scope="module")
def batches(sample, untrained) -> ImageBatches:
    pairs, folder = open_pairs(sample / "train/train.npz"), ImageFolder(sample / "train/Images")
    return ImageBatches(load_clip(*map(str, untrained)), pairs, folder, *folder.distinct(pairs.image_names), 5)


def read(batches: ImageBatches, workers: int) -> list:
    with worker_deaths_told():
        return list(load_batches(batches, TODO, workers))


@pytest.mark.parametrize("free", [0, 10**12])
def test_workers_read_what_this_process_reads_however_little_memory_is_shared(batches, free, monkeypatch, capsys):
    monkeypatch.setattr(src.filters.loading, "_shared_memory", lambda: free)
    expected = read(batches, 0)
    assert capsys.readouterr().out == ""
    for found, right in zip(read(batches, 2), expected, strict=True):
        assert isinstance(found.pixels, torch.Tensor) == (free > 0)
        for key in ("pixels", "tokens", "image_of_caption"):
            np.testing.assert_array_equal(getattr(found, key), getattr(right, key))
    told = "/dev/shm has 0 of the 1 MB that all workers would use: images come through pipes"
    assert (told in capsys.readouterr().out) == (free == 0)


def test_a_batch_that_cannot_be_sent_is_an_error(batches, monkeypatch):
    monkeypatch.setattr(ImageBatches, "__getitem__", lambda self, batch: lambda: None)  # which cannot be pickled
    with pytest.raises(InputError, match=r"has died, .*--workers 0.*docker run .*--shm-size"):
        read(batches, 2)


def test_workers_that_cannot_be_started_are_an_error(batches):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free + 4, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be started \(.*open files.*--workers 0"):
            read(batches, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_more_workers_are_started_than_there_are_batches(batches, monkeypatch, recwarn):
    loaders, loader = [], src.filters.loading.DataLoader
    monkeypatch.setattr(src.filters.loading, "DataLoader", lambda *a, **k: loaders.append(k) or loader(*a, **k))
    read(batches, 900)
    assert [options["num_workers"] for options in loaders] == [3]
    assert not recwarn
