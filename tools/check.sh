#!/usr/bin/env bash
# Format, layers and, with --tidy, lint (some minutes).
#
#   tools/check.sh [--tidy]
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

tool() { # name: the pinned version if it is there
  command -v "$1-14" || command -v "$1" || fail "$1 is missing: tools/install_deps.sh lint"
}

mapfile -t sources < <(git ls-files --cached --others --exclude-standard \
  '*.cpp' '*.h' '*.inl' '*.cu' '*.cuh')
"$(tool clang-format)" --dry-run -Werror "${sources[@]}"
say "Format: ${#sources[@]} files are clean."
python3 tools/check_layers.py
case ${1:-} in
  '') ;;
  --tidy)
    tidy=$(tool clang-tidy)
    cmake --preset release -DTENFOLD_TESTS=OFF > /dev/null
    git ls-files 'kernels/*.cpp' 'runtime/*.cpp' 'models/*.cpp' 'quantizer/**.cpp' 'tools/*.cpp' |
      xargs -P "$(nproc)" -n 4 "$tidy" -p build/release --quiet
    say "Lint: clean."
    ;;
  *) fail "unknown option $1: --tidy" ;;
esac
