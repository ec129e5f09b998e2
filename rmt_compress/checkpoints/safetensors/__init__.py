"""Files of the safetensors format."""
