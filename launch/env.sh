# shellcheck shell=bash
# The environment every other script runs in: `.venv` beside this folder, with the requirements files named in $requirements.
#
#   requirements=(requirements.txt); source launch/env.sh
#
# The first call makes .venv and installs; a stamp with the sha256 of each requirements file makes every later call instant, until
# a file changes. PYTHON chooses the interpreter that makes .venv (3.11 or later); nothing else of the machine is touched.
# Sets: root, python, PYTHONPATH, a compilation cache for JAX unless JAX_COMPILATION_CACHE_DIR is set (empty: no cache), and huge pages
# unless GLIBC_TUNABLES is set (empty: none).

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$root/.venv/bin/python"

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

make_venv() {
  local base="${PYTHON:-python3}"
  command -v "$base" >/dev/null || fail "no $base: install Python 3.11 or later (Debian: apt install python3 python3-venv)"
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$base is older than 3.11: set PYTHON to a later one"
  "$base" -c 'import ensurepip, venv' 2>/dev/null || fail "this Python cannot make environments: apt install python3-venv"
  printf 'env: making .venv with %s\n' "$base" >&2
  "$base" -m venv --clear "$root/.venv" || fail "$base -m venv failed (Debian: apt install python3-venv)"
}

digest() {
  "$python" -c 'import hashlib, sys; print(*(hashlib.sha256(open(f, "rb").read()).hexdigest() for f in sys.argv[1:]))' "$@"
}

install_requirements() {
  local name stamps="$root/.venv/requirements" args=() files=() have=""
  for name in "$@"; do
    args+=(-r "$root/$name")
    files+=("$root/$name")
    have+="${have:+ }$(cat "$stamps/$name" 2>/dev/null || true)"
  done
  [[ "$have" != "$(digest "${files[@]}")" ]] || return 0
  printf 'env: installing %s into .venv (a minute or two the first time)\n' "$*" >&2
  "$python" -m pip install --quiet --disable-pip-version-check "${args[@]}" >&2 || fail "pip could not install $*: see above"
  mkdir -p "$stamps"
  for name in "$@"; do digest "$root/$name" >"$stamps/$name"; done
}

# Where nothing was installed yet, .venv may be half made: pip is what is written last.
[[ -d "$root/.venv/requirements" && -x "$python" ]] || "$python" -m pip --version >/dev/null 2>&1 || make_venv
install_requirements "${requirements[@]:?the sourcing script names its requirements files}"

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# XLA's cache key leaves out the processor, so a home directory shared by unlike machines keeps one cache for each kind.
kind="$(uname -m)-$({ grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || true; } | cksum | cut -d' ' -f1)"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR-${XDG_CACHE_HOME:-${HOME:-$root}/.cache}/dlm/jax-$kind}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS-0}"
# Large blocks of memory in huge pages, where glibc (2.35 or later) and the kernel have them: an update of a small model on a CPU walks
# through more small pages than the processor keeps in mind. Others leave the variable unread.
export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"
