#!/usr/bin/env bash
# From a bare Debian 12 to an answer of a real chat model: installs what the build needs, builds,
# downloads SmolLM2-135M-Instruct, quantizes it, and asks it one question. A second run does only
# what is left.
#
#   tools/quickstart.sh [QUESTION]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh
question=${1:-What is the capital of France?}

tools/install_deps.sh build
say "Building (a few minutes the first time)"
cmake --preset release -DTENFOLD_TESTS=OFF > /dev/null
cmake --build --preset release --target tenfold
source=$(smollm2_path)

# The published weights are 4-bit already: groups of 32 with f16 minima keep them as they are.
binary=build/release/tools/tenfold
model=$(dirname "$source")/SmolLM2-135M-Instruct.tenfold-q4.gguf
if [ ! -f "$model" ] || [ "$source" -nt "$model" ] || [ "$binary" -nt "$model" ]; then
  say "Quantizing it to $model"
  "$binary" quantize -m "$source" -o "$model" --bits 4 --group 32 --min f16 --force
fi
# So small a model feels activations of 8 bits: int8x2 costs it little.
say ""
say "Asking SmolLM2: $question"
printf '%s\n' "$question" | "$binary" chat -m "$model" --temp 0 --activations int8x2
say ""
say "Now chat with it yourself:"
say "  $binary chat -m $model --activations int8x2"
