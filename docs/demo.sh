#!/usr/bin/env bash
# The tour that `make demo` gives: a small trained network, its noise, and what cutting it would save.
set -euo pipefail
cd "$(dirname "$0")/.."
run() {
  printf '\n$ %s\n' "$*"
  "$@"
}
mkdir -p demo-output
run rmt-compress analyze sample_models/digits_mlp.safetensors --plots demo-output/plots --force
printf '\nOne picture per layer is in demo-output/plots.\n'
