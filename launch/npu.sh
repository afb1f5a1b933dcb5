#!/usr/bin/env bash
# Runs a dlm command on the Ascend NPUs of this host:   launch/npu.sh [--processes=N] [--dry_run] COMMAND [flags…]
#
# Sets what CANN and its collectives (HCCL) need, unless it is set already, then calls launch/local.sh, with --config.mesh.platform=npu
# for train. JAX must find a PJRT plugin named npu (PJRT_NAMES_AND_LIBRARY_PATHS=npu:FILE.so, or a jax_plugins package).
#
#   ASCEND_HOME                 where CANN lies; ascend-toolkit/set_env.sh below it is read
#   ASCEND_RT_VISIBLE_DEVICES   the NPUs to use, such as 0,1,2,3; all of the host by default; dealt out among --processes
#   HCCL_SOCKET_IFNAME          the network interface of the collectives; that of the default route (HCCL_IF_IP has priority)
#   HCCL_CONNECT_TIMEOUT        600 s: the processes compile before they first meet           HCCL_EXEC_TIMEOUT   1800 s
#   HCCL_DETERMINISTIC          true: a run that was resumed ends like one that was not
#   RANK_TABLE_FILE             for several hosts, where used: checked before anything starts
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

devices() {
  local file
  for file in /dev/davinci[0-9]*; do
    [[ -e "$file" ]] && printf '%s\n' "${file##*davinci}"
  done | sort -n | paste -sd,
}

interface() {
  { ip -o route show to default 2>/dev/null || true; } | sed -n '1s/.* dev \([^ ]*\).*/\1/p'
}

options=() dry=""
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --processes=*) options+=("$1") ;;
    --dry_run) options+=("$1"); dry=yes ;;
    --help) sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument $1 before the command; --help lists them" ;;
  esac
  shift
done
(($#)) || fail "no command: launch/npu.sh train --config=… --workdir=…"
case "$1" in
  train) set -- "$@" --config.mesh.platform=npu ;;
  preflight) set -- "$@" --platform=npu ;;
esac

toolkit="${ASCEND_HOME:-/usr/local/Ascend}/ascend-toolkit/set_env.sh"
export ASCEND_RT_VISIBLE_DEVICES="${ASCEND_RT_VISIBLE_DEVICES:-$(devices)}"
export HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT:-600}" HCCL_EXEC_TIMEOUT="${HCCL_EXEC_TIMEOUT:-1800}"
export HCCL_DETERMINISTIC="${HCCL_DETERMINISTIC:-true}"
[[ -n "${HCCL_IF_IP:-}" ]] || export HCCL_SOCKET_IFNAME="${HCCL_SOCKET_IFNAME:-$(interface)}"
[[ -z "${RANK_TABLE_FILE:-}" ]] || "${PYTHON:-python3}" "$here/rank_table.py" "$RANK_TABLE_FILE"
if [[ -n "$dry" ]]; then
  printf 'source %q\n' "$toolkit"
  for name in ASCEND_RT_VISIBLE_DEVICES "${!HCCL_@}" RANK_TABLE_FILE; do
    [[ -z "${!name:-}" ]] || printf 'export %s=%q\n' "$name" "${!name}"
  done
else
  [[ -f "$toolkit" ]] || fail "no $toolkit: install CANN, or set ASCEND_HOME to where it lies"
  [[ -n "$ASCEND_RT_VISIBLE_DEVICES" ]] || fail "no NPU: there is no /dev/davinci0; ASCEND_RT_VISIBLE_DEVICES=0,1 names those to use"
  set +u # the toolkit's script reads variables that may not be set
  # shellcheck source=/dev/null
  source "$toolkit"
  set -u
fi
exec bash "$here/local.sh" "${options[@]}" "$@"
