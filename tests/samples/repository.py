"""Where the files of the repository lie."""

import pkgutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "sample_models"
DIGITS = MODELS / "digits_mlp.safetensors"


def modules() -> list[str]:
    """Names of all modules of the package but those that are programs."""
    import rmt_compress

    found = pkgutil.walk_packages(rmt_compress.__path__, "rmt_compress.")
    return [module.name for module in found if not module.name.endswith("__main__")]
