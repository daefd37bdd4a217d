#!/usr/bin/env bash
# Runs every fuzz target for 60 seconds, or as many as the first argument says, from its committed seeds.
# FUZZ_TARGET_DIR is where builds go.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
target_dir=${FUZZ_TARGET_DIR:-$PWD/target/fuzz}

shopt -s nullglob
targets=(fuzz/fuzz_targets/*.rs)
((${#targets[@]})) || { echo "no fuzz targets" >&2; exit 1; }
# cargo fuzz would update a stale lock file without a message.
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null

# Coverage needs flags that stable hides, and no sanitizer: those need a nightly standard library.
export RUSTC_BOOTSTRAP=1
for file in "${targets[@]}"; do
  target=$(basename "$file" .rs)
  # What is found goes into the first directory, which git ignores; the seeds are only read.
  mkdir -p "fuzz/corpus/$target"
  corpora=("fuzz/corpus/$target")
  [[ ! -d fuzz/seeds/$target ]] || corpora+=("fuzz/seeds/$target")
  cargo fuzz run --sanitizer none --target-dir "$target_dir" "$target" "${corpora[@]}" -- \
    -max_total_time="$seconds" -verbosity=0 -print_final_stats=1
  echo "fuzz $target: $seconds s without a finding"
done
