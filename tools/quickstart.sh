#!/usr/bin/env bash
# From a bare Debian 12 to an answer of a real chat model: installs what the build needs, builds,
# downloads SmolLM2-135M-Instruct, and asks it one question. A second run does only what is left.
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
model=$(smollm2_path)

binary=build/release/tools/tenfold
say ""
say "Asking SmolLM2: $question"
printf '%s\n' "$question" | "$binary" chat -m "$model" --temp 0
say ""
say "Now chat with it yourself:"
say "  $binary chat -m $model"
