#!/usr/bin/env bash
# Runs the tests:   launch/test.sh [--fast | --parity] [pytest arguments…]
# --fast leaves out those marked slow; --parity runs instead those that compare with other frameworks, and installs these.
# Two processes, which take what the other has left. A skipped test fails the run unless tests/skips.py lists it with its reason.
set -euo pipefail
# shellcheck disable=SC2034
requirements=(requirements.txt requirements-dev.txt requirements-docs.txt)
[[ "${1:-}" != --parity ]] || requirements+=(requirements-parity.txt)
# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
chosen=(--ignore=tests/parity)
case "${1:-}" in
  --fast) chosen+=(-m "not slow") && shift ;;
  --parity) chosen=(tests/parity) && shift ;;
esac
exec "$python" -m pytest -p tests.skips -n 2 --dist worksteal "${chosen[@]}" "$@"
