"""The house: who may import whom, importing does nothing, command lines are quick and explain themselves."""

import ast

import pytest

from tests.conftest import REPO

SOURCES = sorted((REPO / "src").rglob("*.py"))
SCRIPTS = sorted(REPO.glob("*.py"))
COMMANDS = [path for path in SOURCES if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]

MAY_IMPORT = {
    "common": set(),
    "data": {"common"},
    "sample": {"common", "data"},
    "training": {"common", "data"},
    "filters": {"common", "data", "training"},
    "encoding": {"common", "data", "filters", "training"},
    "ensembles": {"common", "data", "training"},
    "search": {"common", "data", "training"},
    "retrieval": {"common", "data", "training", "filters", "ensembles", "encoding"},
}
HEAVY = {"torch", "pandas", "matplotlib", "scipy", "optuna", "open_clip"}  # a second or more together


def as_module(path):
    return ".".join(path.relative_to(REPO).with_suffix("").parts)


def imports_of(path) -> set[str]:
    """The modules that a file imports, at its top or in a function."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_between_packages_go_one_way(package):
    for path in (REPO / "src" / package).glob("*.py"):
        for module in imports_of(path):
            if module.startswith("src."):
                assert module.split(".")[1] in {package} | MAY_IMPORT[package], f"{path.name} imports {module}"


def test_every_package_is_one_of_them_and_says_what_it_is():
    packages = {path.parent.name: path for path in (REPO / "src").glob("*/__init__.py")}
    assert packages.keys() == MAY_IMPORT.keys()
    for name, path in packages.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert len(docstring.splitlines()) <= 4, name
        assert all(f"src.{other}" in docstring for other in MAY_IMPORT[name]), name


def test_scripts_are_imported_by_nothing_but_the_inventory_of_the_ensembles():
    scripts = {path.stem for path in SCRIPTS}
    for path in SOURCES:
        if path.name != "inventory.py":
            assert not {module.split(".")[0] for module in imports_of(path)} & scripts, path


def test_only_commands_and_scripts_see_parsed_arguments():
    for path in (REPO / "src").glob("*/*.py"):
        if path.parent.name != "common":
            assert "Namespace" not in path.read_text(encoding="utf-8"), path


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


USE_ALL = """
import runpy, sys

for path in sys.argv[2:]:
    for flags in (["--help"], ["--no-such-flag"]):
        sys.argv = [path, *flags]
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            print(f"<<< {path} {end.code or 0}")
print(sorted(set(sys.argv[1:1] + list(sys.modules)) & set(HEAVY)))
"""


def test_every_script_and_command_answers_help_and_a_wrong_flag_before_anything_heavy_is_imported(tmp_path, run_script):
    """With its docstring, the commands to type among it."""
    (tmp_path / "use_all.py").write_text(USE_ALL.replace("HEAVY", repr(sorted(HEAVY))))
    cwd = tmp_path / "empty"
    cwd.mkdir()
    result = run_script(tmp_path / "use_all.py", "", *SCRIPTS, *COMMANDS, cwd=cwd, env={"COLUMNS": "500"})
    assert result.returncode == 0, result.stderr
    *printed, last = result.stdout.strip().split("\n")
    assert last == "[]", "imported before the command line was read"
    parts = "\n".join(printed).split("<<< ")
    for number, path in enumerate(SCRIPTS + COMMANDS):
        answer = parts[2 * number].partition("usage: ")[2]
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring in answer, path
        command = f"python -m {as_module(path)}" if path in COMMANDS else f"python {path.name}"
        assert command in docstring
        assert parts[2 * number + 1].startswith(f"{path} 0"), path
        assert parts[2 * number + 2].startswith(f"{path} 2"), path
    assert not list(cwd.iterdir())


def test_a_public_name_means_one_thing():
    """A public class, function or constant has one meaning in all of src."""
    places: dict[str, set[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in names:
                if not name.startswith("_") and name != "main":
                    places.setdefault(name, set()).add(as_module(path))
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
