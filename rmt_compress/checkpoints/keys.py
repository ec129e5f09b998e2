"""Under which keys a file keeps what is not a tensor."""

from __future__ import annotations

# Where a file compressed by this package keeps its manifest: in the safetensors metadata, beside a state dict.
MANIFEST_KEY = "rmt_compress"
ARCHITECTURE_KEY = "architecture"
# What a network expects of pixels, as `DataSettings.to_json` says it.
PIXELS_KEY = "pixels"
