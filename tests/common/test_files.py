"""Files are written whole or not at all; what the user gave wrong is named in one InputError."""

import os
import stat
import subprocess
import sys

import pytest

from src.common.files import (
    InputError,
    atomic_path,
    copy_file,
    read_json,
    require_file,
    sweep,
    temporary_folder,
    try_outputs,
    write_json,
    write_text,
)
from tests.conftest import REPO


def test_what_is_written_appears_under_its_name_only_when_it_is_whole(tmp_path):
    target = tmp_path / "new/folder/table.csv"
    with atomic_path(target) as temporary:
        assert (temporary.parent, temporary.suffix) == (target.parent, ".csv")
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "table.csv"
    write_text(target, "old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_file_may_be_read_by_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "some.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "some.txt").stat().st_mode) == 0o640


def test_what_a_killed_process_left_is_swept_and_what_another_is_writing_is_not(tmp_path):
    target, others = tmp_path / "table.csv", tmp_path / ".table.backup.csv"
    others.touch()  # a user's
    code = "import sys, os, time; from src.common.files import atomic_path\n"
    code += "with atomic_path(sys.argv[1]): print('writing', flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"writing\n"
        write_text(target, "new")
        assert len(list(tmp_path.iterdir())) == 3
        process.kill()
    write_text(target, "newer")
    assert set(tmp_path.iterdir()) == {target, others}


def test_a_temporary_folder_is_swept_when_its_process_is_dead_and_not_before(tmp_path):
    (tmp_path / ".work.part-dead/deep").mkdir(parents=True)
    (tmp_path / ".workshop.part-x").mkdir()  # of another name
    with temporary_folder(tmp_path / "work") as outer, temporary_folder(tmp_path / "work") as inner:
        (inner / "file").touch()
        sweep(tmp_path / "work")
        assert {path.name for path in tmp_path.iterdir()} == {outer.name, inner.name, ".workshop.part-x"}
    assert [path.name for path in tmp_path.iterdir()] == [".workshop.part-x"]


def test_a_copy_is_a_file_of_its_own(tmp_path):
    write_text(tmp_path / "a", "text")
    copy_file(tmp_path / "a", tmp_path / "b")
    write_text(tmp_path / "a", "changed")
    assert (tmp_path / "b").read_text() == "text"


def test_places_to_write_to_are_tried_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    try_outputs([tmp_path / "new/folder/out.csv", tmp_path / "file"], [None, tmp_path / "other"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for output, reason in ((tmp_path, "is a folder"), (tmp_path / "file/out.csv", "cannot be written")):
        with pytest.raises(InputError, match=reason):
            try_outputs([output])
    with pytest.raises(InputError, match="is read"):
        try_outputs([tmp_path / "new" / ".." / "file"], [tmp_path / "file"])


def test_json_comes_back_as_it_was(tmp_path):
    value = {"name": "tête-à-tête", "figures": [1, 0.1 + 0.2, None, True], "nested": {"empty": []}}
    write_json(tmp_path / "some.json", value)
    assert read_json(tmp_path / "some.json") == value
    assert (tmp_path / "some.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize(
    "content", [b"", b"{'a': 1}", b'{"a": ', b"\xff\xfe", b"[" * 100_000, b"9" * 5000], ids=lambda content: content[:9]
)
def test_what_is_not_json_is_named(tmp_path, content):
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(InputError, match=r"some\.json: not a JSON file"):
        read_json(tmp_path / "some.json")


def test_a_value_that_json_cannot_hold_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "some.json", {1, 2})
    assert not list(tmp_path.iterdir())


def test_a_required_file_is_there_or_named_with_what_to_do(tmp_path):
    (tmp_path / "some.npz").touch()
    assert require_file(str(tmp_path / "some.npz")) == tmp_path / "some.npz"
    with pytest.raises(InputError, match=r"absent\.npz: no such file; run setup first"):
        require_file(tmp_path / "absent.npz", "run setup first")
    with pytest.raises(InputError, match=r"is not a file$"):
        require_file(tmp_path)
