"""Both filter commands answer --help and usage errors at once: before torch is imported, which takes seconds."""

ANSWER = """
import sys
from importlib import import_module
from src.common.files import InputError

for command, wrong in (("topk_filter_pairs", ["--epochs", "5"]), ("clip_filter_pairs", ["--scores-output", "a.csv"])):
    for arguments, expected in ((["--help"], SystemExit), (["--nonsense"], SystemExit), (wrong, InputError)):
        try:
            import_module(f"src.{command}").main(arguments)
        except expected:
            continue
        sys.exit(f"{command} {arguments} was accepted")
print("imported:", {"torch", "open_clip", "matplotlib"} & sys.modules.keys())
"""


def test_help_and_usage_errors_import_nothing_that_takes_long(tmp_path, run_script):
    (tmp_path / "answer.py").write_text(ANSWER)
    result = run_script(tmp_path / "answer.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("imported: set()\n")
