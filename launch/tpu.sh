#!/usr/bin/env bash
# Runs a dlm command on every worker of a Cloud TPU pod, each one process of the run; from any machine with gcloud:
#
#   launch/tpu.sh --name=TPU --zone=ZONE [--project=PROJECT] [--directory=dlm] [--dry_run] COMMAND [flags…]
#
# The repository must lie in --directory on every worker (gcloud compute tpus tpu-vm scp --worker=all --recurse), and --workdir on a file
# system that they share. Started again, the same command goes on. One slice only. --worker is what this script calls there.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

attribute() {
  curl --fail --silent --show-error --header 'Metadata-Flavor: Google' \
    "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1" ||
    fail "no $1 from the metadata server: this is no worker of a Cloud TPU"
}

# Addresses come as a list of hosts, or of name:id:address.
worker() {
  local index endpoints addresses
  index="$(attribute agent-worker-number)"
  endpoints="$(attribute worker-network-endpoints)"
  IFS=, read -ra addresses <<<"$endpoints"
  JAX_COORDINATOR_ADDRESS="${addresses[0]##*:}:8476" JAX_NUM_PROCESSES="${#addresses[@]}" JAX_PROCESS_ID="$index" \
    exec bash "$here/local.sh" "$@"
}

if [[ "${1:-}" == --worker ]]; then
  shift
  worker "$@"
fi
name="" zone="" directory=dlm dry="" options=()
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) options+=("$1") ;;
    --directory=*) directory="${1#*=}" ;;
    --dry_run) dry=yes ;;
    --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fail "unknown argument $1 before the command; --help lists them" ;;
  esac
  shift
done
[[ -n "$name" && -n "$zone" ]] || fail "--name and --zone are missing: gcloud compute tpus tpu-vm list shows them"
(($#)) || fail "no command: launch/tpu.sh --name=$name --zone=$zone train --config=… --workdir=…"
there="cd $(printf %q "$directory") && bash launch/tpu.sh --worker$(printf ' %q' "$@")"
call=(gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" "${options[@]}" --worker=all "--command=$there")
if [[ -n "$dry" ]]; then
  printf '%q ' "${call[@]}" | sed 's/ $//'
  printf '\n'
  exit 0
fi
command -v gcloud >/dev/null || fail "no gcloud: install the Google Cloud CLI, or run launch/tpu.sh --worker … on each worker"
exec "${call[@]}"
