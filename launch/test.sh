#!/usr/bin/env bash
# Runs the tests:   launch/test.sh [--fast] [pytest arguments…]      --fast leaves out those marked slow
# Two processes, which take what the other has left. A skipped test fails the run unless tests/skips.py lists it with its reason.
set -euo pipefail
# shellcheck disable=SC2034
requirements=(requirements.txt requirements-dev.txt)
# shellcheck source=launch/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$root"
fast=()
if [[ "${1:-}" == --fast ]]; then
  fast=(-m "not slow")
  shift
fi
exec "$python" -m pytest -p tests.skips -n 2 --dist worksteal "${fast[@]}" "$@"
