#!/usr/bin/env bash
# Installs what the tests need, builds, and runs all of them.
#
#   tools/test.sh [ctest options]      e.g. tools/test.sh -R Gguf
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

tools/install_deps.sh test
say "Building"
cmake --preset ci > /dev/null
cmake --build --preset ci
client_venv || say "Without packages from PyPI the tests of the server from outside are skipped."
smollm2_path > /dev/null || say "Without SmolLM2 the tests that use it are skipped."
ctest --test-dir build/ci --output-on-failure -j "$(nproc)" "$@"
