#!/bin/bash
# The shared library exports the functions that installed headers declare, and nothing else; headers compile alone, as
# C11 and as C++17, by either of the two ways to name them; all of the archive's symbols begin with gln_.
. "$(dirname "$0")/common.sh" "$@"
include=$prefix/include
headers=$(cd "$include/gleaner" && find . -name '*.h' | sed 's,^\./,,' | LC_ALL=C sort)
[ "$(echo "$headers" | wc -l)" -ge 10 ] || fail "only these headers are installed: $headers"

warnings=(-Wall -Wextra -pedantic -Werror -fsyntax-only)
for header in $headers; do
    printf "#include <gleaner/%s>\ntypedef int unit;\n" "$header" >"$work/one.c"
    printf "#include \"%s\"\ntypedef int unit;\n" "$header" >"$work/two.c"
    gcc -std=c11 "${warnings[@]}" -I"$include" "$work/one.c" || fail "<gleaner/$header> as C11"
    gcc -std=c11 "${warnings[@]}" -I"$include/gleaner" "$work/two.c" || fail "\"$header\" as C11"
    g++ -std=c++17 "${warnings[@]}" -I"$include" -x c++ "$work/one.c" || fail "<gleaner/$header> as C++17"
done

# what the compiler sees declared in them, without static functions
echo "#include <gleaner/gleaner.h>" >"$work/all.c"
gcc -std=c11 -I"$include" -fsyntax-only -aux-info "$work/declared.txt" "$work/all.c" || fail "cannot list declarations"
grep -F "$include/" "$work/declared.txt" | grep -F ' extern ' | grep -oE '\bgln_[a-z0-9_]+ \(' | tr -d ' (' |
    LC_ALL=C sort -u >"$work/declared"
nm -D --defined-only "$so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | LC_ALL=C sort -u >"$work/exported"
[ "$(wc -l <"$work/declared")" -ge 100 ] || fail "only $(wc -l <"$work/declared") functions are declared: the search is broken"
while read -r name; do
    fail "$name is exported, but no installed header declares it"
done < <(LC_ALL=C comm -13 "$work/declared" "$work/exported")
while read -r name; do
    fail "$name is declared in an installed header, but not exported"
done < <(LC_ALL=C comm -23 "$work/declared" "$work/exported")
grep -vE '^gln_' "$work/exported" && fail "these exported names do not begin with gln_"
nm -g --defined-only "$libdir/libgleaner.a" | awk 'NF == 3 { print $3 }' | grep -vE '^gln_' &&
    fail "these names of the archive do not begin with gln_"
echo "$(wc -l <"$work/exported") functions, $(echo "$headers" | wc -l) headers"
finish
