#!/bin/bash
# Training where /dev/shm is too small for the windows of a node: one warning with the reason, rows as messages, the same
# losses; parallel.path: shared is refused with the reason instead. Skipped where no file system may be mounted.
. "$(dirname "$0")/common.sh"
make_input
words=(--set parallel.domains=4 --set model.hidden=128 --set model.layers=1 --set train.steps=2)

unshare --mount mount -t tmpfs -o size=1m tmpfs /dev/shm 2>why || {
    echo "skipped: cannot mount a small /dev/shm: $(cat why)"
    exit 77
}

# with_shm SIZE ARGUMENTS...: gleaner on 2 ranks with a /dev/shm of that size; sets $status.
with_shm() {
    timeout -k 10 120 unshare --mount bash -c 'mount -t tmpfs -o "size=$1" tmpfs /dev/shm && exec mpirun -n 2 "${@:2}"' - \
        "$1" "$gleaner" "${@:2}" >out 2>err </dev/null
    status=$?
}
digest() { # RUN_DIR
    "$gleaner" ckpt digest "$1" 2>/dev/null || echo "none of $1"
}
says() { # NAME PATTERN FILE
    grep -qE "$2" "$3" || fail "$1: expected $2 in: $(head -c 2000 "$3")"
}

with_shm 256m train run.yaml "${words[@]}" --set run.dir=large
[ "$status" -eq 0 ] || fail "a large /dev/shm: exit status $status: $(tail -n 3 err)"
says "large" 'exchange +shared inside a node: ranks share a node' out
grep -q warning err && fail "large: warns: $(cat err)"

with_shm 1m train run.yaml "${words[@]}" --set run.dir=small
[ "$status" -eq 0 ] || fail "a small /dev/shm: exit status $status: $(tail -n 3 err)"
says "small" 'exchange +messages inside a node: /dev/shm of rank 0 has .* free, the windows of the 2 ranks' out
[ "$(grep -c 'gleaner: warning: rows inside a node travel as messages: /dev/shm' err)" -eq 1 ] ||
    fail "small: expected one warning: $(cat err)"
grep -q 'gleaner: error' err && fail "small: an error was printed: $(cat err)"
[ "$(digest large)" = "$(digest small)" ] || fail "messages give another checkpoint than windows"

with_shm 1m train run.yaml "${words[@]}" --json --set run.dir=json
says "small --json" '"path":"messages","path_reason":"/dev/shm of rank 0 has' out

with_shm 1m train run.yaml "${words[@]}" --set run.dir=forced --set parallel.path=shared
[ "$status" -eq 1 ] || fail "shared on a small /dev/shm: exit status $status, expected 1"
says "shared" 'gleaner: error: /dev/shm of rank 0 has .* free, the windows of the 2 ranks of its node .* need .* enlarge it' err

with_shm 256m train run.yaml "${words[@]}" --set run.dir=messages --set parallel.path=messages
says "messages" 'exchange +messages inside a node: asked for' out
[ "$(digest large)" = "$(digest messages)" ] || fail "parallel.path: messages gives another checkpoint"
finish
