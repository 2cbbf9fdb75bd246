#!/usr/bin/env bash
# Tenfold beside llama.cpp on this machine, in one run: SmolLM2-135M-Instruct with F16 weights,
# prefill of 512 tokens and decode of 128, runs interleaved, medians and their ratio printed.
# With --ppl also the perplexity of both on WikiText-2 (../shared/data).
#
#   bench/compare_llama_cpp.sh [--rounds N] [--threads N] [--ppl]
#
# llama.cpp is built natively (GGML_NATIVE) from the PyPI source package llama-cpp-python 0.3.36
# into the cache folder, once.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/lib.sh

rounds=7 threads=$(nproc) ppl=0
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --threads) threads=$2; shift 2 ;;
    --ppl) ppl=1; shift ;;
    *) echo "compare_llama_cpp.sh: unknown option $1" >&2; exit 2 ;;
  esac
done

version=0.3.36
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tenfold
peer=$cache/llama.cpp-$version
if [ ! -x "$peer/bin/llama-bench" ]; then
  echo "Building llama.cpp from llama-cpp-python $version (some minutes)" >&2
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  python3 -m pip download --quiet --no-deps --no-binary :all: -d "$work" "llama-cpp-python==$version"
  tar -xzf "$work"/llama_cpp_python-$version.tar.gz -C "$work"
  cmake -S "$work/llama_cpp_python-$version/vendor/llama.cpp" -B "$work/build" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_SERVER=OFF > "$work/log" 2>&1
  cmake --build "$work/build" --target llama-bench llama-perplexity >> "$work/log" 2>&1 ||
    { tail -20 "$work/log" >&2; exit 1; }
  mkdir -p "$peer/bin"
  cp "$work"/build/bin/llama-bench "$work"/build/bin/llama-perplexity "$peer/bin/"
fi

cmake --preset release -DTENFOLD_BENCH=ON > /dev/null
cmake --build --preset release --target tenfold tokens > /dev/null
model=$(smollm2_path)
f16=$cache/SmolLM2-135M-Instruct.F16.gguf
[ -f "$f16" ] || build/release/tools/tenfold convert --quiet -m "$model" -o "$f16" --type f16

results=$(mktemp)
for round in $(seq "$rounds"); do
  echo "round $round of $rounds" >&2
  build/release/bench/tokens "$f16" 512 128 1 "$threads" | sed 's/^/tenfold /' >> "$results"
  "$peer/bin/llama-bench" -m "$f16" -p 512 -n 128 -r 1 -t "$threads" -o jsonl 2> /dev/null |
    sed 's/^/llama.cpp /' >> "$results"
done
python3 - "$results" <<'PY'
import json, statistics, sys

speeds = {}
for line in open(sys.argv[1]):
    who, text = line.split(" ", 1)
    row = json.loads(text)
    if who == "tenfold":
        test, speed = row["test"], row["tok_s"]
    else:
        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        speed = row["avg_ts"]
    speeds.setdefault(test, {}).setdefault(who, []).append(speed)
print("| test | Tenfold tok/s | llama.cpp tok/s | ratio of medians | pairwise ratios |")
print("|---|---|---|---|---|")
for test, by in speeds.items():
    ours, theirs = by["tenfold"], by["llama.cpp"]
    pairs = sorted(a / b for a, b in zip(ours, theirs))
    print(f"| {test} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f} | "
          f"{statistics.median(ours) / statistics.median(theirs):.2f} | "
          f"{pairs[0]:.2f} ... {pairs[-1]:.2f} |")
PY
rm -f "$results"

if [ "$ppl" = 1 ]; then
  text=../shared/data/wikitext2/wiki.test.raw
  [ -f "$text" ] || { echo "$text is missing: no perplexity" >&2; exit 1; }
  for weights in "$model" "$f16"; do
    ours=$(build/release/tools/tenfold eval --quiet -m "$weights" --ppl "$text" --window 512 \
      --score half --windows 40 --threads "$threads" --json |
      python3 -c 'import json, sys; print(json.load(sys.stdin)["ppl"])')
    theirs=$("$peer/bin/llama-perplexity" -m "$weights" -f "$text" -c 512 --chunks 40 \
      -t "$threads" 2>&1 | sed -n 's/.*Final estimate: PPL = \([0-9.]*\).*/\1/p')
    echo "$(basename "$weights"): Tenfold $ours, llama.cpp $theirs"
  done
fi
