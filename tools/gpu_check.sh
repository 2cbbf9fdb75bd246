#!/usr/bin/env bash
# Everything about CUDA that needs a real GPU, in one command: builds, runs the CUDA tests on the
# device, again under compute-sanitizer where it is installed, and the benchmark beside cuBLAS.
# What it finds goes to the terminal and below the mark in docs/gpu.md.
#
#   tools/gpu_check.sh [--no-build FOLDER] [-o FILE]
#
# --no-build: FOLDER holds test_cuda and cuda_bench already.
set -euo pipefail
cd "$(dirname "$0")/.."

build=1 folder=build/cuda output=docs/gpu.md
while [ $# -gt 0 ]; do
  case $1 in
    --no-build) build=0 folder=${2:?--no-build needs a folder} && shift 2 ;;
    -o) output=${2:?-o needs a file} && shift 2 ;;
    *) echo "gpu_check.sh: unknown argument '$1'" >&2 && exit 2 ;;
  esac
done

command -v nvidia-smi > /dev/null || { echo "gpu_check.sh: no nvidia-smi: no NVIDIA driver here" >&2; exit 1; }
if [ "$build" = 1 ]; then
  cmake --preset cuda -DTENFOLD_BENCH=ON
  cmake --build --preset cuda --target test_cuda cuda_bench
fi
tests=$(find "$folder" -name test_cuda -type f | head -n 1)
bench=$(find "$folder" -name cuda_bench -type f | head -n 1)
[ -n "$tests" ] && [ -n "$bench" ] || { echo "gpu_check.sh: no test_cuda and cuda_bench under $folder" >&2; exit 1; }

found=$(mktemp)
trap 'rm -f "$found"' EXIT
sanitize() {  # tool, filter of tests
  command -v compute-sanitizer > /dev/null || { echo "- compute-sanitizer $1: NOT RUN, not installed"; return; }
  compute-sanitizer --tool "$1" --error-exitcode 9 "$tests" --gtest_brief=1 --gtest_filter="$2" > "$found.log" 2>&1 ||
    { cat "$found.log" >&2; echo "gpu_check.sh: compute-sanitizer $1 found errors" >&2; exit 1; }
  echo "- compute-sanitizer $1, $(grep -o '[0-9]* tests\? from' "$found.log" | head -n 1 | cut -d' ' -f1) tests: no errors"
}
{
  echo "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1), $(date +%F)"
  echo
  echo "- test_cuda: $("$tests" --gtest_brief=1 2>&1 | tee "$found.log" | tail -n 1)"
  grep -q 'FAILED\|NOT TESTED' "$found.log" && { cat "$found.log" >&2; exit 1; }
  sanitize memcheck '*'
  sanitize racecheck '*-*ManyRows*'
  echo
  "$bench"
} | tee "$found"
rm -f "$found.log"

if [ -f "$output" ]; then
  sed -i '/^<!-- gpu_check -->$/,$d' "$output"
fi
{ echo '<!-- gpu_check -->'; cat "$found"; } >> "$output"
echo "Written to $output"
