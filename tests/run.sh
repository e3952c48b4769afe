#!/bin/bash
# Installs what is missing, builds with warnings as errors, and runs every test. Ctest's closing line ends it; skipped
# tests are named with their reason before it. Safe to run again.
#
# usage: bash tests/run.sh                the optimized build, all tests
#        bash tests/run.sh --sanitize    all tests twice more: AddressSanitizer, UndefinedBehaviorSanitizer
#        bash tests/run.sh -R PATTERN    further words go to ctest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

presets=(ci)
if [ "${1:-}" = --sanitize ]; then
    presets=(asan ubsan)
    shift
fi

bash launcher/install.sh build run text test
bash launcher/install.sh virtual || echo "going on without it: tests on virtual hosts are skipped"
bash launcher/install.sh slurm || echo "going on without it: the test on Slurm is skipped"
jobs=$(nproc)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Skipped tests with their reasons: whole programs (the line they printed with the word "skip", or else their first
# one), and single tests inside a Criterion program, which ctest does not know of.
name_skips() { # BUILD_FOLDER
    local skips
    skips=$(awk '
        FNR == NR {
            if (/\*Skipped/ && match($0, /#[0-9]+: /)) {
                split(substr($0, RSTART + RLENGTH), word, " ")
                skipped[word[1]] = 1
            }
            next
        }
        /^[0-9]+\/[0-9]+ Testing: / { name = $3; reason = first = ""; body = 0 }
        /^-----/ { body = 1; next }
        /^<end of output>/ {
            body = 0
            if (name in skipped) print "  " name ": " (reason == "" ? first : reason)
        }
        body && sub(/^\[SKIP\] /, "") { print "  " name ": " $0; next }
        body && NF && first == "" { first = $0 }
        body && /[Ss]kip/ && reason == "" { reason = $0 }
        ' "$log" "$1/Testing/Temporary/LastTest.log")
    [ -z "$skips" ] || printf 'skipped:\n%s\n' "$skips"
}

status=0
for preset in "${presets[@]}"; do
    echo "building (preset $preset)"
    cmake --preset "$preset" -DGLN_TESTS=ON >"$log" 2>&1 && cmake --build --preset "$preset" -j "$jobs" >"$log" 2>&1 || {
        tail -n 60 "$log" >&2
        echo "gleaner: error: preset $preset does not build (see above)" >&2
        exit 1
    }
    folder=build
    [ "$preset" = ci ] || folder=build-$preset
    # as ctest prints it, but for its closing lines: skips and failures go before the line of counts
    ctest --test-dir "$folder" --output-on-failure "$@" 2>&1 | tee "$log" |
        awk '/^[0-9]+% tests passed/ { closing = 1 } !closing { print; fflush() }' || status=1
    name_skips "$folder"
    awk '/^[0-9]+% tests passed/ { closing = 1; next }
         /^The following tests did not run/ { skips = 1 }
         /^The following tests FAILED/ { skips = 0 }
         closing && !skips && NF' "$log"
    grep -E '^[0-9]+% tests passed' "$log" || status=1
    [ "$status" -eq 0 ] || exit "$status"
done
