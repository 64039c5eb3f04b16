"""setup.sh, with a stand-in for Python that writes down what it is asked to do instead of installing 6 GB."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPO

FAKE = """#!/usr/bin/env bash
# python -c …: the version check; python -m venv DIR: an environment whose python is this script; else only logged.
echo "$*" >> "$LOG"
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"- torch") echo "torch==2.7.1+cu126" ;;
"-m pip") while [[ $1 != -c ]]; do shift; done; cp "$2" "$LOG.constraints"; exit "${PIP_STATUS:-0}" ;;
"-c "*) exit "${VERSION_STATUS:-0}" ;;
esac
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with what setup.sh needs of a fresh clone."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("setup.sh", "requirements.txt", "constraints.txt"):
        shutil.copy(REPO / name, folder)
    return folder


@pytest.fixture
def setup(clone, tmp_path):
    """Start setup.sh from another folder; returns the process and the lines that the stand-in wrote for it."""
    python, log = tmp_path / "python3", tmp_path / "log.txt"
    python.write_text(FAKE)
    python.chmod(0o755)

    def start(*arguments, **env):
        log.write_text("")
        environment = os.environ | {"PYTHON": str(python), "LOG": str(log)} | env
        environment["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        for name in ("VENV", "CONSTRAINTS", "KAGGLE_COMPETITION"):
            if name not in env:
                environment.pop(name, None)
        command = ["bash", str(clone / "setup.sh"), *map(str, arguments)]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return result, log.read_text().splitlines()

    return start


def test_help_shows_the_commands_and_installs_nothing(setup, clone):
    for flag in ("-h", "--help"):
        result, calls = setup(flag)
        assert (result.returncode, result.stderr, calls) == (0, "", [])
        assert result.stdout.startswith("Make .venv, install the requirements, put data into place.")
        for fragment in ("bash setup.sh --zip train.zip test.zip", "KAGGLE_COMPETITION=<slug>", "PYTHON=", "VENV="):
            assert fragment in result.stdout
        assert "#" not in result.stdout
        assert "set -e" not in result.stdout
    assert {path.name for path in clone.iterdir()} == {"setup.sh", "requirements.txt", "constraints.txt"}


def test_the_first_call_makes_the_environment_installs_and_prepares_data(setup, clone):
    result, calls = setup()
    assert result.returncode == 0, result.stderr
    version, venv, pip, data = calls
    assert version.startswith("-c ")
    assert venv == f"-m venv {clone}/.venv"
    assert pip.startswith("-m pip install ")
    assert pip.endswith(f"-r {clone}/requirements.txt -c {clone}/constraints.txt")
    assert data == f"-P -m src.sample.prepare --data-dir {clone}/data"
    assert (clone / ".venv/bin/python").exists()


def test_the_second_call_only_prepares_data(setup, clone):
    setup()
    result, calls = setup()
    assert result.returncode == 0
    assert calls == [f"-P -m src.sample.prepare --data-dir {clone}/data"]
    assert "installing" not in result.stdout


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_other_requirements_or_constraints_are_installed_again(setup, clone, name):
    setup()
    with (clone / name).open("a") as file:
        file.write("another>=1\n")
    assert len(setup()[1]) == 4
    assert len(setup()[1]) == 1


def test_an_environment_that_is_there_is_kept(setup, clone):
    setup()
    (clone / ".venv/bin/pip").touch(0o755)  # what venv makes last
    (clone / "constraints.txt").unlink()
    _, calls = setup()
    assert not any(call.startswith("-m venv") for call in calls)
    assert any(call.endswith(f"-r {clone}/requirements.txt -c /dev/null") for call in calls)


def test_an_installation_that_failed_is_tried_again(setup):
    result, calls = setup(PIP_STATUS="1")
    assert result.returncode != 0
    assert not [call for call in calls if "src.sample.prepare" in call]
    assert len(setup()[1]) == 4
    assert len(setup()[1]) == 1


def test_on_a_system_that_has_torch_nothing_is_made_and_torch_stays(setup, clone, tmp_path):
    for _ in range(2):  # pip itself says that there is nothing to do
        result, calls = setup("--system", "--scale", "2")
        assert result.returncode == 0, result.stderr
        assert [call.split()[0] for call in calls] == ["-c", "-", "-m", "-P"]
        assert f"-r {clone}/requirements.txt -c " in calls[2]
        assert calls[3] == f"-P -m src.sample.prepare --data-dir {clone}/data --scale 2"
        assert (tmp_path / "log.txt.constraints").read_text() == "torch==2.7.1+cu126\n"
    assert {path.name for path in clone.iterdir()} == {"setup.sh", "requirements.txt", "constraints.txt"}
    assert not Path(calls[2].split()[-1]).exists(), "what it was told to keep"


def test_without_cuda_the_wheels_are_those_for_cpu_and_with_it_again_others(setup):
    result, calls = setup("--cpu")
    assert "(about 1 GB)" in result.stdout
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in calls[2]
    assert len(setup("--cpu")[1]) == 1
    result, calls = setup()
    assert "some 6 GB" in result.stdout
    assert "whl/cpu" not in calls[1]
    both, calls = setup("--system", "--cpu")
    assert (both.returncode, calls, both.stderr.count("\n")) == (2, [], 1)


UV = """#!/usr/bin/env bash
# uv venv … DIR, which has a python; uv pip install … -c FILE.
echo "uv $*" >> "$LOG"
[[ $1 != venv ]] || (mkdir -p "${!#}/bin" && cp "$PYTHON" "${!#}/bin/python" && cp "$PYTHON" "${!#}/bin/pip")
"""


def test_uv_installs_where_there_is_one(setup, clone, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text(UV)
    (tmp_path / "bin/uv").chmod(0o755)
    result, calls = setup("--cpu")
    assert result.returncode == 0, result.stderr
    assert calls[1] == f"uv venv --quiet --seed --python {tmp_path}/python3 {clone}/.venv"
    assert calls[2].startswith(f"uv pip install --quiet --python {clone}/.venv/bin/python --torch-backend=cpu -r ")
    assert len(calls) == 4
    system = setup("--system")[1]
    assert system[2].startswith(f"uv pip install --quiet --python {tmp_path}/python3 -r {clone}/requirements.txt -c ")


def test_its_arguments_go_to_the_data(setup):
    setup()
    assert setup("--zip", "train.zip", "with blank.zip")[1][0].endswith("/data --zip train.zip with blank.zip")


@pytest.mark.parametrize("venv", ["else where", "{tmp_path}/else where", "~/else where"])
def test_another_place_for_the_environment_is_seen_from_the_callers_folder(setup, clone, tmp_path, venv):
    venv = venv.format(tmp_path=tmp_path)
    assert setup(VENV=venv, HOME=str(tmp_path))[1][1] == f"-m venv {venv.replace('~', str(tmp_path))}"
    assert (tmp_path / "else where/bin/python").exists()
    assert not (clone / ".venv").exists()
    assert len(setup(VENV=venv, HOME=str(tmp_path))[1]) == 1


@pytest.mark.parametrize("python", ["./python3", "~/python3"])
def test_another_python_is_seen_from_the_callers_folder(setup, tmp_path, python):
    result, calls = setup(PYTHON=python, HOME=str(tmp_path))
    assert (result.returncode, len(calls)) == (0, 4), result.stderr


def test_the_newest_versions_instead_of_the_tested_ones(setup, clone):
    assert setup(CONSTRAINTS="/dev/null")[1][2].endswith(f"-r {clone}/requirements.txt -c /dev/null")
    assert len(setup()[1]) == 4, "and back"


def test_other_constraints_are_seen_from_the_callers_folder(setup, clone, tmp_path):
    (tmp_path / "mine.txt").write_text("numpy==1.26.0\n")
    assert setup(CONSTRAINTS="mine.txt")[1][2].endswith(" -c mine.txt")
    (tmp_path / "mine.txt").unlink()
    result, calls = setup(CONSTRAINTS="mine.txt")
    assert (result.returncode, result.stderr, calls) == (
        2,
        "error: mine.txt: no such file; name one with CONSTRAINTS=\n",
        [],
    )


@pytest.mark.parametrize(("shell", "where"), [("bash", "other/deep"), ("sh", "."), ("dash", "other/deep")])
def test_any_shell_may_start_it_from_any_folder(clone, setup, tmp_path, shell, where):
    """Archives that are named from there are unpacked into the project's data, by the project's package alone."""
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    setup()
    (clone / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (clone / "src").symlink_to(REPO / "src")
    folder = tmp_path / where
    (folder / "src").mkdir(parents=True)
    (folder / "src/__init__.py").write_text("raise SystemExit('of another project')")
    script = os.path.relpath(clone / "setup.sh", folder)
    with zipfile.ZipFile(folder / "empty.zip", "w"):
        pass
    command = [shell, script, "--zip", "empty.zip"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "error: the archives hold no train.npz" in result.stderr
    assert (clone / "data").exists(), "where it was unpacked"


def test_every_requirement_has_a_tested_version_within_its_range():
    ranges = [Requirement(line) for line in (REPO / "requirements.txt").read_text().splitlines() if line[0] != "#"]
    pins = [Requirement(line) for line in (REPO / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    tested = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}
    for requirement in ranges:
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("env", [{"VERSION_STATUS": "1"}, {"PYTHON": "python3-which-does-not-exist"}])
def test_an_old_or_missing_python_is_one_line(setup, clone, env):
    result, _ = setup(**env)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert "not a Python of version 3.11 or later; name one with PYTHON=" in result.stderr
    assert not (clone / ".venv").exists()


def test_what_the_data_say_is_its_status(setup, clone):
    setup()
    (clone / ".venv/bin/python").write_text("#!/usr/bin/env bash\necho 'error: no' >&2\nexit 2\n")
    result, _ = setup()
    assert (result.returncode, result.stderr) == (2, "error: no\n")
