#!/usr/bin/env bash
# Scores a task with lm-evaluation-harness over `tenfold serve` (its local-completions) and with
# `tenfold eval --task`, and compares the accuracies. By hand: lm_eval is heavy.
#
#   tools/e2e_lm_eval.sh TENFOLD MODEL TOKENIZER TASK.jsonl [items]
#
# TOKENIZER: a Hugging Face folder, for lm_eval. TASK.jsonl: {"query", "choices", "gold"} a line.
# PYTHON: one that has lm_eval[api]; without it build/lm-eval-venv is made.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
tenfold=$(realpath "$1") model=$(realpath "$2") tokenizer=$(realpath "$3") task=$(realpath "$4")
items=${5:-200}
cd "$(dirname "$0")/.."
. tools/lib.sh

if [ -z "${PYTHON:-}" ]; then
  PYTHON=build/lm-eval-venv/bin/python
  [ -x $PYTHON ] || {
    say "Installing lm_eval"
    python3 -m venv build/lm-eval-venv
    $PYTHON -m pip install --quiet --disable-pip-version-check "lm_eval[api]" torch transformers
  }
fi
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT

head -n "$items" "$task" > "$work/items.jsonl"
cat > "$work/local.yaml" << YAML
task: tenfold_local
dataset_path: json
dataset_kwargs: {data_files: {test: $work/items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{query.rstrip()}}\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
YAML

"$tenfold" eval -m "$model" --task "$work/items.jsonl" --json --quiet > "$work/eval.json"
"$tenfold" serve -m "$model" --port 0 --quiet --alias served > "$work/url" &
server=$!
for _ in $(seq 600); do [ -s "$work/url" ] && break; sleep 0.1; done
url=$(cat "$work/url")
context=$("$PYTHON" -c 'import json, sys, urllib.request
print(json.load(urllib.request.urlopen(sys.argv[1] + "/v1/models"))["data"][0]["meta"]["n_ctx"])' "$url")
"$PYTHON" -m lm_eval run --model local-completions --tasks tenfold_local --include_path "$work" \
  --model_args "model=served,base_url=$url/v1/completions,tokenizer=$tokenizer,tokenizer_backend=huggingface,num_concurrent=4,max_retries=1,max_length=$context,add_bos_token=True" \
  --output_path "$work/out" > "$work/lm_eval.log" 2>&1 || { tail -20 "$work/lm_eval.log" >&2; fail "lm_eval failed"; }
"$PYTHON" - "$work" << 'PY'
import json, pathlib, sys
work = pathlib.Path(sys.argv[1])
ours = json.loads((work / "eval.json").read_text())
theirs = json.loads(next((work / "out").rglob("results_*.json")).read_text())["results"]["tenfold_local"]
same = True
for name in ("acc", "acc_norm"):
    a, b = ours[name], theirs[f"{name},none"]
    print(f"{name:9} tenfold eval {a:.4f}  lm_eval over the server {b:.4f}")
    same = same and abs(a - b) < 1e-9
sys.exit(0 if same else 1)
PY
