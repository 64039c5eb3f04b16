"""Every script and tool answers --help, and importing any module of src does nothing that anyone could see."""

import ast
import runpy
import sys

import pytest

from tests.conftest import REPO

SOURCES = sorted((REPO / "src").rglob("*.py"))
SCRIPTS = sorted(REPO.glob("*.py"))
TOOLS = [path for path in SOURCES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]


def as_module(path):
    return ".".join(path.relative_to(REPO).with_suffix("").parts)


@pytest.mark.parametrize("path", SCRIPTS + TOOLS, ids=lambda path: path.stem)
def test_it_answers_help(path, monkeypatch, tmp_path, capsys):
    """With its docstring, the commands to type among it, and every flag explained."""
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code in (0, None)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("usage: ")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring in printed.out
    command = f"python -m {as_module(path)}" if path in TOOLS else f"python {path.name}"
    assert command in docstring
    assert not list(tmp_path.iterdir())


IMPORT_ALL = """
import importlib, os, random, sys
import numpy, torch

def state():
    yield from (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist())
    yield from (torch.get_default_dtype(), torch.get_num_threads(), torch.get_float32_matmul_precision())
    yield from (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark, torch.is_grad_enabled())
    yield from (os.getcwd(), sys.argv, sys.path)

before = str(list(state()))
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert str(list(state())) == before, f"importing {name} changes the state of the process"
assert not torch.cuda.is_initialized()
"""


def test_importing_does_nothing(tmp_path, run_script):
    """No output, no seeding, no settings, no device, no files; scripts included."""
    (tmp_path / "import_all.py").write_text(IMPORT_ALL)
    cwd = tmp_path / "empty"
    cwd.mkdir()
    result = run_script(tmp_path / "import_all.py", *map(as_module, SOURCES + SCRIPTS), cwd=cwd)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not list(cwd.iterdir())
