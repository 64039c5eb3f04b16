"""A full disk, a limit on the size of files, a read-only folder: one line and status 2, and nothing half-written; once
there is room, the same command ends as if nothing had been.

    FAULTS=all python -m pytest -m slow tests/faults/test_disk.py      # every script by both; otherwise some by one
"""

import os
import resource
import subprocess

import pytest

from tests.conftest import assert_input_error
from tests.faults.conftest import SCRIPTS, contents, fill, is_written_at_once, run_whole, started

ROOM = 1 << 28  # bytes, enough for any of these
ALL = os.environ.get("FAULTS") == "all"
ON_A_DISK = tuple(SCRIPTS) if ALL else ("train", "clip")
SIZE_LIMITED = tuple(SCRIPTS) if ALL else ("ensemble", "combine")


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    """A function that gives what a script leaves where nothing goes wrong, and the bytes of that."""
    known = {}

    def of(name):
        if name not in known:
            folder = fill(tmp_path_factory.mktemp("whole") / name, inputs)
            run_whole(name, folder)
            sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
            known[name] = contents(folder), sizes
        return known[name]

    return of


@pytest.fixture
def disk(tmp_path, inputs):
    """A folder with the inputs on a small disk of its own, and a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)

    if os.getuid() or mount(f"size={ROOM}").returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield fill(folder / "project", inputs), lambda options: mount(f"remount,{options}").check_returncode()
    subprocess.run(["umount", "--lazy", folder], check=True)


def assert_one_line(name, folder, expected, errors, **options) -> bool:
    """Start a script that may lack room: what it leaves is right, and a failure is one line. Returns whether it
    failed."""
    with started(name, folder, errors, **options) as process:
        status = process.wait(timeout=120)
    if status:
        assert_input_error(subprocess.CompletedProcess(name, status, stderr=errors.read_text()))
    for path, content in contents(folder, is_written_at_once).items():
        assert content == expected.get(path, content), path
    return status != 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_DISK)
def test_a_full_or_read_only_disk(name, disk, expected, tmp_path):
    (folder, remount), (whole, sizes), errors = disk, expected(name), tmp_path / "stderr"
    remount("ro")
    assert assert_one_line(name, folder, whole, errors)
    remount("rw")
    failed = []
    for share in (0.2, 0.7) if ALL else (0.5,):
        remount(f"size={int(sum(sizes) * share)}")
        failed.append(assert_one_line(name, folder, whole, errors))
    assert any(failed)
    remount(f"size={ROOM}")
    run_whole(name, folder)
    assert contents(folder) == whole


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZE_LIMITED)
def test_a_limit_on_the_size_of_files(name, inputs, expected, tmp_path):
    (whole, sizes), folder = expected(name), fill(tmp_path / "project", inputs)
    limit = sorted(sizes)[-2] if len(sizes) > 1 else sizes[0] // 2  # none but the largest is too large
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    failed = assert_one_line(name, folder, whole, tmp_path / "stderr", **limits)
    assert failed or max(sizes) == limit
    run_whole(name, folder)
    assert contents(folder) == whole
