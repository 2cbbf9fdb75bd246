#!/usr/bin/env bash
# Format, layers and, with --tidy, lint (about ten minutes on two cores).
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
    cmake --preset release -B build/lint -DTENFOLD_BENCH=ON > /dev/null
    git ls-files '*.cpp' |
      xargs -P "$(nproc)" -n 1 "$tidy" -p build/lint --quiet \
        2> >(grep -v ' warnings\? generated\.$' >&2)
    say "Lint: clean."
    ;;
  *) fail "unknown option $1: --tidy" ;;
esac
