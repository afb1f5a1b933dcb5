#!/usr/bin/env bash
# From nothing to a trained, evaluated, sampled model:   launch/quickstart.sh [DIRECTORY]      (default runs/quickstart, or $RUNS)
# Trains a masked diffusion model and its autoregressive twin on text that every Python contains, and two more on Sudoku;
# scores all four, draws samples and writes a report. Each step prints its command, so that you can run it alone. A second
# call does only what is not done yet.
set -euo pipefail
[[ "${1:-}" != -* ]] || { sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit 0; }
runs="$(realpath -m -- "${1:-${RUNS:-$(dirname "${BASH_SOURCE[0]}")/../runs/quickstart}}")"
# shellcheck disable=SC2034
requirements=(requirements.txt)
# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
runs="${runs#"$root"/}" # short in what is printed; absolute where it lies elsewhere
mkdir -p "$runs/.done"
SECONDS=0

# run WHAT COMMAND…: says what and how, then does it; the first failure ends the script with its exit code.
run() {
  printf '\n== %s\n   launch/local.sh' "$1" >&2
  printf ' %q' "${@:2}" >&2
  printf '\n' >&2
  "$python" -m "dlm.$2" "${@:3}"
}

# once OUTPUT WHAT COMMAND… --workdir=…: as run, unless this very command already made OUTPUT from this very training run.
once() {
  local output="$1" what="$2" stamp mark
  shift 2
  mark="$runs/.done/$(printf '%s' "$what" | tr -c 'a-z0-9' '-')"
  stamp="$(printf '%q ' "$@"; for model in "${models[@]}"; do cksum <"$runs/$model/metrics.jsonl"; done)"
  if [[ -e "$output" && "$(cat "$mark" 2>/dev/null)" == "$stamp" ]]; then
    printf '\n== %s: done before\n' "$what" >&2
    return
  fi
  run "$what" "$@"
  printf '%s\n' "$stamp" >"$mark"
}

models=(masked ar sudoku-masked sudoku-ar)
for model in "${models[@]}"; do
  task=text
  [[ "$model" != sudoku-* ]] || task=sudoku
  run "train $model" train --config="configs/quickstart.py:task=$task,objective=${model#sudoku-}" --workdir="$runs/$model"
done
for model in "${models[@]}"; do
  evals=bound,compression
  [[ "$model" != sudoku-* ]] || evals=tasks
  once "$runs/$model/evals.jsonl" "evaluate $model" evaluate --workdir="$runs/$model" --evals="$evals"
done
once "$runs/replay.html" "sample masked" sample --workdir="$runs/masked" --num=3 --trace="$runs/replay.html"
once "$runs/infill.html" "infill masked" \
  sample --workdir="$runs/masked" --infill=$'def ___(x):\n    return ___\n' --num=1 --trace="$runs/infill.html"
once "$runs/ar/samples.jsonl" "sample ar" sample --workdir="$runs/ar" --num=3
for model in sudoku-masked sudoku-ar; do
  once "$runs/$model.html" "solve $model" sample --workdir="$runs/$model" --problems=12 --grid=4 --trace="$runs/$model.html"
done
run "report" report "${models[@]/#/$runs/}" --out="$runs"

printf '\nSudoku, cell by cell:    %s\nand from left to right:  %s\nreplay of the denoising: %s\nreport:                  %s\nthe job took %d s\n' \
  "$(realpath -- "$runs/sudoku-masked.html")" "$(realpath -- "$runs/sudoku-ar.html")" \
  "$(realpath -- "$runs/replay.html")" "$(realpath -- "$runs/report.html")" "$SECONDS" >&2
