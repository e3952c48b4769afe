# Sourced: installs the build into a folder of its own, $prefix. Arguments: BUILD_DIR SOURCE_DIR
set -u
build_dir=$1
source_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

cmake --install "$build_dir" --prefix "$prefix" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log"
    echo "FAILED: cmake --install"
    exit 1
}
so=$(find "$prefix" -name libgleaner.so)
libdir=$(dirname "$so")

finish() {
    [ $failures -eq 0 ] && echo "ok"
    exit $((failures > 0))
}
