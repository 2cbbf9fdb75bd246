#!/usr/bin/env bash
# Tenfold beside llama.cpp on this machine: same model, runs interleaved, medians and their ratios.
# Builds both programs and hands over to compare.py, whose --help lists the options.
#
#   bench/compare_llama_cpp.sh                                 SmolLM2-135M-Instruct, F16 weights
#   bench/compare_llama_cpp.sh --ppl                           and the perplexity of both
#   bench/compare_llama_cpp.sh --model llama2-7b:8 --only q2   a random model of that shape
#   bench/compare_llama_cpp.sh --model llama2-7b:8 --isa avx2  llama.cpp without AVX-512
#   bench/compare_llama_cpp.sh --build build/ci                a build that is there already
#
# Models, llama.cpp (from the PyPI source package llama-cpp-python) and what it quantizes stay in
# the cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

build= peer=native options=("$@")
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) exec python3 bench/compare.py --help ;;
    --isa) peer=${2:-} ;;
    --build) build=${2:-} ;;
  esac
  shift
done

bash bench/build_llama_cpp.sh "$peer"
if [ -z "$build" ]; then
  cmake --preset release -DTENFOLD_BENCH=ON > /dev/null
  cmake --build --preset release --target tenfold make_synthetic > /dev/null
fi
model=$(smollm2_path)
exec python3 bench/compare.py --smollm2 "$model" \
  --llama-cpp "$(dirname "$model")/llama.cpp-$llama_cpp_version/$peer/bin" "${options[@]}"
