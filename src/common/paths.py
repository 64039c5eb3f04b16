"""Where things lie if nothing else is said, seen from the project's folder."""

from pathlib import Path

TRAIN_NPZ = Path("data/train/train.npz")
TEST_NPZ = Path("data/test/test.clean.npz")
IMAGES_ROOT = Path("data/train/Images")
FILTERED_DIR = Path("data/filtered")
CLIP_NPZ = FILTERED_DIR / "train_clip_q0.10_from_raw.npz"
MODELS_DIR = Path("models")
