#!/usr/bin/env bash
# Runs every fuzz target for some seconds (15, or the first argument) from its committed seeds.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-15}

shopt -s nullglob
targets=(fuzz/fuzz_targets/*.rs)
((${#targets[@]})) || { echo "no fuzz targets" >&2; exit 1; }
# cargo fuzz would mend a stale lock file in silence.
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null

# Coverage needs flags that stable hides, and no sanitizer: those need a nightly standard library.
export RUSTC_BOOTSTRAP=1
for file in "${targets[@]}"; do
  target=$(basename "$file" .rs)
  # What is found goes into the first directory, which git ignores; the seeds are only read.
  mkdir -p "fuzz/corpus/$target"
  corpora=("fuzz/corpus/$target")
  [[ ! -d fuzz/seeds/$target ]] || corpora+=("fuzz/seeds/$target")
  cargo fuzz run --sanitizer none "$target" "${corpora[@]}" -- \
    -max_total_time="$seconds" -verbosity=0 -print_final_stats=1
  echo "fuzz $target: $seconds s without a finding"
done
