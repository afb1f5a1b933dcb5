#!/usr/bin/env bash
# Runs a dlm command in the project's environment, in the caller's directory:   launch/local.sh train --config=configs/quickstart.py …
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

commands() {
  local file
  for file in "$here"/../dlm/*.py; do
    file="$(basename "$file" .py)"
    [[ "$file" == __init__ ]] || printf '%s\n' "$file"
  done
}

if (($# == 0)) || [[ "$1" == --help || "$1" == -h ]]; then
  printf 'usage: launch/local.sh COMMAND [flags…]     runs python -m dlm.COMMAND; COMMAND --help lists its flags\n\n'
  for name in $(commands); do
    printf '  %-10s %s\n' "$name" "$(sed -n '1{s/^"""//;s/"""$//;p;}' "$here/../dlm/$name.py")"
  done
  exit 0
fi
if [[ "$1" == */* || "$1" == __init__ || ! -f "$here/../dlm/$1.py" ]]; then
  printf 'error: no command %q; there are: %s\n' "$1" "$(commands | paste -sd' ')" >&2
  exit 2
fi
# shellcheck disable=SC2034
requirements=(requirements.txt)
# shellcheck source=launch/env.sh
source "$here/env.sh"
command="dlm.$1"
shift
exec "$python" -P -m "$command" "$@"
