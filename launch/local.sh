#!/usr/bin/env bash
# Runs a dlm command in the project's environment, in the caller's directory:   launch/local.sh train --config=configs/quickstart.py …
# --processes=N before COMMAND runs it as N processes of one run, --dry_run there prints what would be run (see launch/processes.py).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

commands() {
  local file
  for file in "$here"/../dlm/*.py; do
    file="$(basename "$file" .py)"
    [[ "$file" == __init__ ]] || printf '%s\n' "$file"
  done
  printf 'preflight\n'
}

source_of() {
  if [[ "$1" == preflight ]]; then printf '%s' "$here/preflight.py"; else printf '%s' "$here/../dlm/$1.py"; fi
}

if (($# == 0)) || [[ "$1" == --help || "$1" == -h ]]; then
  printf 'usage: launch/local.sh [--processes=N] [--dry_run] COMMAND [flags…]     COMMAND --help lists its flags\n\n'
  for name in $(commands); do
    printf '  %-10s %s\n' "$name" "$(sed -n '1{s/^"""//;s/"""$//;p;}' "$(source_of "$name")")"
  done
  exit 0
fi
processes="" dry=""
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --processes=*) processes="${1#*=}" ;;
    --dry_run) dry=yes ;;
    *) fail "unknown argument $1 before the command; there are --processes=N and --dry_run" ;;
  esac
  shift
done
[[ -z "$processes" || "$processes" =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes is not a number from 1"
name="${1:-}"
if [[ -z "$name" || "$name" == */* || "$name" == __init__ || ! -f "$(source_of "$name")" ]]; then
  fail "no command $(printf %q "$name"); there are: $(commands | paste -sd' ')"
fi
shift
# The others would each do the whole work, and write it twice.
[[ -z "$processes" ]] || grep -q 'hosts\.join' "$(source_of "$name")" || fail "$name is one process: leave --processes=$processes out"
module="dlm.$name"
[[ "$name" != preflight ]] || module=launch.preflight
if [[ -n "$dry" ]]; then
  for ((rank = 0; rank < ${processes:-1}; rank++)); do
    [[ -z "$processes" ]] || printf 'JAX_COORDINATOR_ADDRESS=127.0.0.1:PORT JAX_NUM_PROCESSES=%d JAX_PROCESS_ID=%d ' "$processes" "$rank"
    printf '%q ' python -P -m "$module" "$@" | sed 's/ $//'
    printf '\n'
  done
  exit 0
fi
# shellcheck disable=SC2034
requirements=(requirements.txt)
# shellcheck source=launch/env.sh
source "$here/env.sh"
[[ -n "$processes" ]] || exec "$python" -P -m "$module" "$@"
exec "$python" -P -m launch.processes "$processes" "$python" -P -m "$module" "$@"
