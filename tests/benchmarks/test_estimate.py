"""What is computed of a training that is too large to be run."""

from tests.benchmarks import estimate


def test_what_can_be_computed_by_hand():
    of_eight = estimate.estimate(100_000_000, 8)
    assert of_eight["memory of a GPU: images"] == "122.9 GB"  # 20 million × 1536 × 4
    assert of_eight["sent by a process in a step: gradients"] == "187.4 MB"  # 26.8 million × 4 × 2 × 7/8
    assert of_eight["… (predictions in their place)"] == "704.6 MB"  # 65,536 × 1536 × 4 × 2 × 7/8
    assert of_eight["… reading captions, if none stays in memory"] == "0.30"  # 8 × 409.6 GB at 3 GB/s
    alone = estimate.estimate(100_000_000, 1)
    assert alone["… sending, if none goes on meanwhile"] == "0.00"


def test_it_prints_its_assumptions(capsys):
    estimate.main(["--captions", "1000", "--processes", "2"])
    printed = capsys.readouterr().out
    assert printed.startswith("1,000 captions, 200 images\n")
    assert "300 TFLOP/s" in printed
    assert "2 processes" in printed
