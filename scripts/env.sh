# shellcheck shell=bash
# What every script shares: where things are kept, which compiler cache is used, and how a step is shown.
#
#   CRETO_LOCAL             tools, compiler cache, local Kubernetes (~/.cache/creto); outside of the clone, so that clones share it
#   CRETO_KUBECONFIG        a kubeconfig of a cluster to use instead of the local Kubernetes
#   CRETO_IMAGE_REPOSITORY  where that cluster takes images from, and where they are pushed, such as ghcr.io/me
#   CARGO                   the cargo to use

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
export CRETO_LOCAL=${CRETO_LOCAL:-${XDG_CACHE_HOME:-$HOME/.cache}/creto}
export PATH=$CRETO_LOCAL/tools/bin:$PATH
CARGO=${CARGO:-cargo}
out=$root/target
# make tells its own children about its jobs in these; cargo and cmake would take them for theirs.
unset MAKEFLAGS MFLAGS MAKELEVEL
mkdir -p "$CRETO_LOCAL" "$out"

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*" && exit 1; }
heading() { printf '\n== %s\n' "$*" >&2; }
as_duration() { if [ "$1" -lt 60 ]; then echo "$1 s"; else echo "$(($1 / 60)) min $(($1 % 60)) s"; fi; }

# The compiler cache only saves time: where it does not run, the build goes on without it.
started_cache=no
use_compiler_cache() {
    [ "${RUSTC_WRAPPER-}" != sccache ] || return 0
    command -v sccache >/dev/null || { say "no compiler cache: sccache is not installed (make tools)" && return 0; }
    export SCCACHE_DIR=${SCCACHE_DIR:-$CRETO_LOCAL/sccache} SCCACHE_CACHE_SIZE=${SCCACHE_CACHE_SIZE:-20G} SCCACHE_IDLE_TIMEOUT=${SCCACHE_IDLE_TIMEOUT:-900}
    # The server stays after us: nothing of ours, least of all our output, may be open in it.
    if setsid sccache --start-server </dev/null >/dev/null 2>&1 9>&-; then started_cache=yes; fi
    if timeout 30 sccache --show-stats >/dev/null 2>&1; then
        export RUSTC_WRAPPER=sccache CC="sccache gcc" CXX="sccache g++" CARGO_INCREMENTAL=0
    else
        say "no compiler cache: sccache does not start here"
        unset SCCACHE_DIR SCCACHE_CACHE_SIZE SCCACHE_IDLE_TIMEOUT
    fi
}
