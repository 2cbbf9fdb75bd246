#!/usr/bin/env bash
# Installs the Debian packages that Tenfold needs and that are missing.
#
#   tools/install_deps.sh [build] [test] [lint]     default: build test
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

packages=$model_packages
for kind in "${@:-build test}"; do
  for part in $kind; do
    case $part in
      build) packages+=" $build_packages" ;;
      test) packages+=" $build_packages $test_packages" ;;
      lint) packages+=" $build_packages $test_packages $lint_packages" ;;
      *) fail "unknown kind $part: build, test or lint" ;;
    esac
  done
done
# shellcheck disable=SC2086
install_packages $packages
