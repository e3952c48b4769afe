#!/bin/bash
# Every public symbol is documented: doxygen over the installed headers, warnings as errors.
command -v doxygen >/dev/null || {
    echo "skipped: doxygen is not installed"
    exit 77
}
. "$(dirname "$0")/common.sh" "$@"
cd "$prefix/include/gleaner" || exit 1
sed -e "s,@INPUT@,.,; s,@OUTPUT@,$work/reference,; s,@FILTER@,$source_dir/cmake/doxygen.awk," \
    "$source_dir/cmake/Doxyfile.in" >"$work/Doxyfile"
doxygen "$work/Doxyfile" >"$work/log" 2>&1 || fail "undocumented: $(grep -E 'warning|error' "$work/log" | head -n 40)"
[ -s "$work/reference/xml/index.xml" ] || fail "no reference was written"
finish
