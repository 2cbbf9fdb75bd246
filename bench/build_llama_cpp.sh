#!/usr/bin/env bash
# Builds llama.cpp from the PyPI source package llama-cpp-python into the cache folder: for this
# machine (native), for any with AVX2 and no AVX-512 (avx2), or for NVIDIA GPUs of sm_90 without
# flash attention (cuda: what tools/gpu_check.sh needs; an hour on two cores, hours with it). What
# is there already is kept; an interrupted build goes on where it stopped.
#
#   bench/build_llama_cpp.sh [native|avx2|cuda]...
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

folder=${XDG_CACHE_HOME:-$HOME/.cache}/tenfold/llama.cpp-$llama_cpp_version
programs=(llama-bench llama-imatrix llama-quantize llama-perplexity llama-server)

fetch() {
  local work
  mkdir -p "$folder"
  work=$(mktemp -d "$folder/download.XXXXXX")
  say "Downloading llama-cpp-python $llama_cpp_version"
  python3 -m pip download --quiet --no-deps --no-binary :all: -d "$work" \
    "llama-cpp-python==$llama_cpp_version" || { rm -rf "$work"; fail "it could not be downloaded"; }
  tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
  mv "$work"/llama_cpp_python-*/vendor/llama.cpp "$folder/source"
  rm -rf "$work"
}

build() { # native, avx2 or cuda
  local missing=0 program flags programs=("${programs[@]}")
  [ "$1" != cuda ] || programs=(llama-bench llama-quantize)
  for program in "${programs[@]}"; do [ -x "$folder/$1/bin/$program" ] || missing=1; done
  [ $missing = 1 ] || return 0
  [ -d "$folder/source" ] || fetch
  case $1 in
    native) flags=(-DGGML_NATIVE=ON) ;;
    avx2)
      flags=(-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON
        -DGGML_BMI2=ON -DGGML_AVX512=OFF)
      ;;
    cuda) flags=(-DGGML_NATIVE=ON -DGGML_CUDA=ON -DGGML_CUDA_FA=OFF -DCMAKE_CUDA_ARCHITECTURES=90) ;;
    *) fail "unknown build $1: native, avx2 or cuda" ;;
  esac
  say "Building llama.cpp, $1 (some minutes)"
  cmake -S "$folder/source" -B "$folder/$1" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_USE_PREBUILT_UI=OFF \
    "${flags[@]}" > "$folder/$1.log" 2>&1 &&
    cmake --build "$folder/$1" --target "${programs[@]}" >> "$folder/$1.log" 2>&1 ||
    { tail -20 "$folder/$1.log" >&2; exit 1; }
}

[ $# -gt 0 ] || set -- native
for which in "$@"; do build "$which"; done
