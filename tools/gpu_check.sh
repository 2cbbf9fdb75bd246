#!/usr/bin/env bash
# Everything about CUDA that needs a real GPU, in one command: builds, runs the CUDA tests on the
# device, again under compute-sanitizer where it is installed, the kernels beside cuBLAS, and whole
# models of LLaMA-2-7B's shape in every width. What it finds goes to the terminal and below the
# mark in docs/gpu.md.
#
#   tools/gpu_check.sh [--no-build FOLDER] [--no-models] [-o FILE]
#
# --no-build: FOLDER holds the programs already.
# --no-models: leaves out the whole models (30 GB of disk, some minutes).
set -euo pipefail
cd "$(dirname "$0")/.."

build=1 models=1 folder=build/cuda output=docs/gpu.md
while [ $# -gt 0 ]; do
  case $1 in
    --no-build) build=0 folder=${2:?--no-build needs a folder} && shift 2 ;;
    --no-models) models=0 && shift ;;
    -o) output=${2:?-o needs a file} && shift 2 ;;
    *) echo "gpu_check.sh: unknown argument '$1'" >&2 && exit 2 ;;
  esac
done

command -v nvidia-smi > /dev/null || { echo "gpu_check.sh: no nvidia-smi: no NVIDIA driver here" >&2; exit 1; }
if [ "$build" = 1 ]; then
  cmake --preset cuda -DTENFOLD_BENCH=ON
  cmake --build --preset cuda --target test_cuda test_cuda_backend cuda_bench make_synthetic tenfold
fi
program() {
  local path
  path=$(find "$folder" -name "$1" -type f | head -n 1)
  [ -n "$path" ] || { echo "gpu_check.sh: no $1 under $folder" >&2; exit 1; }
  echo "$path"
}
tests=$(program test_cuda) backend_tests=$(program test_cuda_backend) bench=$(program cuda_bench)
TENFOLD_CUDA_MODULE=$(program libtenfold_cuda.so)
export TENFOLD_CUDA_MODULE

work=$(mktemp -d "${TMPDIR:-/tmp}/gpu_check.XXXXXX")
trap 'rm -rf "$work"' EXIT
test_all() { # program
  "$1" --gtest_brief=1 > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
  ! grep -q 'NOT TESTED' "$work/log" || { cat "$work/log" >&2; exit 1; }
  echo "- $(basename "$1"): $(grep PASSED "$work/log")"
}
sanitize() { # tool, program, filter of tests
  command -v compute-sanitizer > /dev/null || { echo "- compute-sanitizer $1: NOT RUN, not installed"; return; }
  compute-sanitizer --tool "$1" --error-exitcode 9 "$2" --gtest_brief=1 --gtest_filter="$3" > "$work/log" 2>&1 ||
    { cat "$work/log" >&2; echo "gpu_check.sh: compute-sanitizer $1 found errors" >&2; exit 1; }
  echo "- compute-sanitizer $1 of $(basename "$2"), $(grep -o '[0-9]* tests\? from' "$work/log" | head -n 1 | cut -d' ' -f1) tests: no errors"
}

# tokens/s of a file, one row of the table: what the model is, prefill, decode of 1, 4 and 16 sequences.
model_row() { # label, file
  "$(program tenfold)" bench --device cuda --tune --no-limits --quiet -o json -p 512 -n 128 -r 3 -m "$2" |
    python3 -c '
import json, sys
b = json.load(sys.stdin)
cells = ["%.0f" % b["prefill"][0]["tok_s"]] + ["%.1f" % d["tok_s"] for d in b["decode"]]
print("| %s | %.2f | %.0f | %s |" % (sys.argv[1], b["bits_per_weight"], b["weight_bytes"] / 2**20, " | ".join(cells)))
' "$1"
}
# The same of llama.cpp, which decodes one sequence here.
llama_row() { # label, file
  "$LLAMA_BENCH" -m "$2" -ngl 99 -p 512 -n 128 -r 3 -o json 2> /dev/null |
    python3 -c '
import json, sys
prefill, decode = json.load(sys.stdin)
bits, mib = prefill["model_size"] * 8 / prefill["model_n_params"], prefill["model_size"] / 2**20
print("| %s | %.2f | %.0f | %.0f | %.1f | | |" % (sys.argv[1], bits, mib, prefill["avg_ts"], decode["avg_ts"]))
' "$1"
}
# Of LLaMA-2-7B's shape: f16 (cuBLAS), every width, and llama.cpp's types where its CUDA build is
# there (LLAMA_BENCH names its llama-bench).
make_models() {
  local width type
  local quantize=("$(program tenfold)" quantize --quiet -m "$work/f16.gguf" --group 128 --range minmax)
  "$(program make_synthetic)" --shape llama2-7b -o "$work/f16.gguf"
  for width in 4 3 2 1; do "${quantize[@]}" -o "$work/q$width.gguf" --bits $width; done
  "${quantize[@]}" -o "$work/mixed.gguf" --bits 1 --mixed 0.2
  for type in ${LLAMA_BENCH:+Q4_0 Q2_K}; do
    "${LLAMA_BENCH%-bench}-quantize" --pure "$work/f16.gguf" "$work/$type.gguf" "$type"
  done
}
model_rows() {
  local width type
  echo
  echo "LLaMA-2-7B's shape with random weights, tokens a second (\`tenfold bench --device cuda\`):"
  echo
  echo "| weights | bits | MiB a step | prefill of 512 | decode, 1 | 4 | 16 |"
  echo "|---|---|---|---|---|---|---|"
  model_row "f16 (cuBLAS)" "$work/f16.gguf"
  for width in 4 3 2 1; do model_row "q$width g128" "$work/q$width.gguf"; done
  model_row "q1, 20 % of columns q4" "$work/mixed.gguf"
  if [ -n "${LLAMA_BENCH:-}" ]; then
    llama_row "llama.cpp F16" "$work/f16.gguf"
    for type in Q4_0 Q2_K; do llama_row "llama.cpp $type" "$work/$type.gguf"; done
  else
    echo
    echo "llama.cpp: NOT RUN, LLAMA_BENCH does not name a llama-bench with CUDA."
  fi
}

{
  echo "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1), $(date +%F)"
  echo
  test_all "$tests"
  test_all "$backend_tests"
  "$bench" > "$work/products"
  # The CPU makes models while nothing is timed.
  if [ "$models" = 1 ]; then make_models > "$work/made" 2>&1 & fi
  sanitize memcheck "$tests" '*'
  sanitize memcheck "$backend_tests" '*'
  # Not the products of many tokens, where it takes the barriers of some warps for none (docs/gpu.md).
  sanitize racecheck "$tests" 'CudaA*:CudaMadeRows*:CudaOps*:CudaReorder*:*LongRows:*ProductsOfOneInput.ManyRows'
  echo
  cat "$work/products"
  if [ "$models" = 1 ]; then
    wait $! || { cat "$work/made" >&2; exit 1; }
    model_rows
  fi
} | tee "$work/found"

if [ -f "$output" ]; then
  sed -i '/^<!-- gpu_check -->$/,$d' "$output"
fi
{ echo '<!-- gpu_check -->'; cat "$work/found"; } >> "$output"
echo "Written to $output"
