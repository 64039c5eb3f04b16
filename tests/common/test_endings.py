"""One line and an exit status for every end of a script."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch
from tqdm import tqdm

from src.common.endings import run_main
from src.common.files import InputError
from tests.conftest import REPO


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raising(InputError("train.npz: has no\n   key")), 2, "error: train.npz: has no key\n"),
        (raising(PermissionError(13, "Permission denied", "out.csv")), 2, "error: out.csv: Permission denied\n"),
        (raising(OSError("cannot")), 2, "error: cannot\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
)
def test_every_end_has_its_status_and_at_most_one_line(main, status, line, capsys):
    with pytest.raises(SystemExit) as end:
        run_main(main)
    assert end.value.code == status
    assert capsys.readouterr().err == line


def test_a_full_gpu_ends_with_advice(capsys):
    with pytest.raises(SystemExit) as end:
        run_main(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nof details")))
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: CUDA out of memory.")
    assert "--batch-size" in line
    assert line.count("\n") == 1


def test_progress_bars_are_closed_before_an_error_is_told(capsys):
    def main():
        with tqdm(desc="inner", position=1, leave=False):
            for _ in tqdm(range(3), desc="outer", position=0):
                raise InputError("it is wrong")

    with pytest.raises(SystemExit):
        run_main(main)
    lines = capsys.readouterr().err.replace("\x1b[A", "\r").splitlines()  # which moves the cursor up
    assert lines[-1] == "error: it is wrong"


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(60)",
        "weakref.finalize(type('T', (), {})(), time.sleep, 60)",  # a callback, whose errors Python ignores
        "os.kill(os.getpid(), signal.SIGINT)",
        "__import__('late')",
    ],
)
def test_an_interruption_is_one_word_wherever_it_comes(work, tmp_path):
    # As compiled modules do, when their imports within are interrupted.
    late = "import time\ntry:\n    time.sleep(60)\nexcept BaseException:\n    raise ImportError('failed') from None"
    (tmp_path / "late.py").write_text(late)
    code = "import os, signal, time, weakref\nfrom src.common.endings import run_main\n"
    code += f"def main():\n    print('on', flush=True)\n    {work}\n    time.sleep(60)\nrun_main(main)"
    environment = os.environ | {"PYTHONPATH": f"{REPO}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "on\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[1] == "interrupted\n"
        assert process.returncode == 130


@pytest.mark.parametrize("allocate", [torch.empty, np.empty, lambda size: raising(MemoryError())()])
def test_memory_that_cannot_be_had_ends_with_advice(allocate, capsys):
    with pytest.raises(SystemExit) as end:
        run_main(lambda: allocate(10**15))
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: out of memory (")
    assert "--batch-size" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    "reason",
    [
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534\nframe 0",
        "[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0: file write failed",
        "Error while serializing: I/O error: File too large (os error 27)",
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "Disk quota exceeded",
    ],
)
def test_a_full_disk_that_a_library_tells_in_its_own_way_is_one_line(reason, capsys):
    with pytest.raises(SystemExit) as end:
        run_main(raising(RuntimeError(reason)))
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: a file could not be written whole, is the disk full?")
    assert line.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("a bug"), RuntimeError("a\nbug")])
def test_our_own_mistakes_leave_their_traceback_in_a_file(error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        run_main(raising(error))
    assert end.value.code == 1
    (log,) = tmp_path.glob("error-*.log")
    trace = log.read_text()
    assert trace.startswith("Traceback")
    assert type(error).__name__ in trace
    line = capsys.readouterr().err
    assert line.startswith(f"unexpected error: {type(error).__name__}: ")
    assert str(log) in line
    assert line.count("\n") == 1


def test_a_traceback_that_finds_no_room_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(SystemExit) as end:
        run_main(raising(KeyError("a bug")))
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("Traceback")


def start(body, **env):
    code = f"from src.common.endings import run_main\ndef main():\n    {body}\nrun_main(main)"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("body", ["print('short')", "[print('long' * 99) for _ in range(9999)]; return None"])
def test_a_closed_pipe_ends_the_script_quietly(body):
    process = start(body)
    process.stdout.close()  # before Python has started
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


def test_output_that_cannot_be_written_is_one_line(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))"
    full = f"import os; os.dup2(os.open({str(tmp_path / 'out')!r}, os.O_WRONLY | os.O_CREAT), 1)"
    process = start(f"{limit}; {full}; print('too long for it')")
    assert process.communicate() == (b"", b"error: File too large\n")
    assert process.returncode == 2


def test_an_output_without_the_character_shows_a_question_mark():
    process = start("print('Δ 1–2')", PYTHONIOENCODING="ascii")
    assert process.communicate() == (b"? 1?2" + os.linesep.encode(), b"")
    assert process.returncode == 0


@pytest.mark.parametrize("backend", ["nonsense", "module://nope", "tkagg"])
def test_pictures_need_no_backend(backend):
    body = "from src.common.endings import run_main; run_main(lambda: print(__import__('matplotlib').get_backend()))"
    environment = os.environ | {"MPLBACKEND": backend}
    result = subprocess.run([sys.executable, "-c", body], cwd=REPO, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "agg\n", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_lose_what_is_written_and_no_more(closed, tmp_path):
    body = (
        "print('a'); print('b', file=sys.stderr); sys.stdout.flush(); open('c', 'w').write('c'); tqdm.tqdm([1]).close()"
    )
    code = f"import sys, tqdm\nfrom src.common.endings import run_main\ndef main(): {body}\nrun_main(main)"
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    result = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code], cwd=tmp_path, env=environment
    )
    assert result.returncode == 0
    assert (tmp_path / "c").read_text() == "c"
