"""Submission CSVs: write one, average many."""

from pathlib import Path

import numpy as np
import orjson

from src.data.submissions import write_submission
from src.ensembles.averaging import average
from tests.benchmarks.measuring import Cost, Row, Sizes, best_seconds
from tests.benchmarks.reference_files import average_csvs, write_csv


def measure_submissions(folder: Path, sizes: Sizes) -> list[Row]:
    rng = np.random.default_rng(0)
    caption_ids = np.arange(sizes.csv_rows)
    embeddings = rng.standard_normal((sizes.csv_rows, sizes.image_dim), np.float32)
    plain, ours = folder / "plain.csv", folder / "ours.csv"

    def write_numbers() -> None:
        (folder / "numbers.json").write_bytes(orjson.dumps(embeddings, option=orjson.OPT_SERIALIZE_NUMPY))

    writing = best_seconds(
        sizes.repeats,
        reference=lambda: write_csv(plain, caption_ids, embeddings),
        ours=lambda: write_submission(ours, caption_ids, embeddings),
        floor=write_numbers,
    )
    files = [folder / f"{number:02}.csv" for number in range(sizes.csv_files)]
    for file in files:
        write_submission(file, caption_ids, rng.standard_normal(embeddings.shape, np.float32))
    some = files[: sizes.csv_files_reference]
    lists = [line.split(b",", 1)[1].strip()[1:-1] for line in files[0].read_bytes().splitlines()[1:]]
    averaging = best_seconds(
        sizes.repeats,
        reference=lambda: average_csvs(some),
        ours=lambda: average(files, [1.0] * len(files)),
        floor=lambda: [orjson.loads(numbers) for numbers in lists],
    )
    size = f"{sizes.csv_rows:,} × {sizes.image_dim:,}"
    scaled = f", timed on {len(some)} of the files and scaled" if len(some) < len(files) else ""
    return [
        Row(
            work="average CSVs",
            size=f"{len(files)} of {size}",
            reference=Cost(averaging["reference"] * len(files) / len(some)),
            ours=Cost(averaging["ours"]),
            floor=averaging["floor"] * len(files),
            note=f"reference: csv, ast.literal_eval, np.mean{scaled}; floor: orjson parsing the numbers",
        ),
        Row(
            work="write a CSV",
            size=size,
            reference=Cost(writing["reference"]),
            ours=Cost(writing["ours"]),
            floor=writing["floor"],
            note=f"reference: csv and json, {plain.stat().st_size / 1e6:.1f} MB, ours "
            f"{ours.stat().st_size / 1e6:.1f} MB; floor: orjson writing the numbers",
        ),
    ]
