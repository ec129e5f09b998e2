"""Where the files of the repository lie."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "sample_models"
DIGITS = MODELS / "digits_mlp.safetensors"
