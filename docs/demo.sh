#!/usr/bin/env bash
# The tour that `make demo` gives: a small trained network, its noise, and what cutting it costs and saves.
# Needs no download: the digits data set comes with scikit-learn.
set -euo pipefail
cd "$(dirname "$0")/.."
model=sample_models/digits_mlp.safetensors
out=demo-output
say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() {
  printf '$ %s\n' "$*"
  "$@"
}
rm -rf "$out" && mkdir "$out"
say "1. Which layers are noise?"
run rmt-compress analyze $model --plots $out/spectra
say "2. Cut the noise out and write a smaller file"
run rmt-compress prune $model -o $out/small.safetensors
say "3. Accuracy against how much is kept"
run rmt-compress sweep $model --data digits -o $out/sweep
say "4. What it cost and what it won"
run rmt-compress evaluate $out/small.safetensors --against $model --data digits
printf '\nThe smaller model and all pictures are in %s/. Your own: rmt-compress analyze model.safetensors\n' "$out"
