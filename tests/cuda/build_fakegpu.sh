#!/usr/bin/env bash
# Builds the stand-in for CUDA's runtime library, unless it is there. 77: no sources to build from.
#
#   build_fakegpu.sh SOURCES FOLDER CUDA_TOOLKIT
set -euo pipefail
if [ ! -f "$1/Makefile" ]; then
  echo "NOT TESTED: without $1 no CUDA code runs on this machine's CPU."
  exit 77
fi
exec make -C "$1" -j 2 OUT="$2" CUDA="$3" "$2/libcudart.so.13" "$2/libcublas.so.13"
