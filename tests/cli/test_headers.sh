#!/bin/bash
# Every header compiles alone, as C and as C++, and keeps C++ callers in mind.
source_dir=$2
cd "$source_dir" || exit 1
failures=0
count=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

warnings=(-Wall -Wextra -Werror -fsyntax-only -D_GNU_SOURCE -I.)
for header in $(find base cluster kernels comm router moe launcher -name '*.h' | LC_ALL=C sort); do
    count=$((count + 1))
    compiler=gcc
    grep -q '<mpi.h>' "$header" && compiler=mpicc
    OMPI_CC=gcc $compiler -std=gnu11 "${warnings[@]}" -x c -include "$header" /dev/null || fail "$header alone, as C"
    grep -qE '^#ifndef GLN_' "$header" || fail "$header has no include guard GLN_..."
    # internal headers, and those of one backend, are for our own C
    [[ $header == *internal.h || $header == */*/* ]] && continue
    grep -q ';' "$header" || continue # declares nothing
    grep -q 'extern "C"' "$header" || fail "$header lacks extern \"C\""
    g++ -std=c++17 "${warnings[@]}" -x c++ -include "$header" /dev/null || fail "$header alone, as C++"
done
[ $count -ge 20 ] || fail "only $count headers were found: the search is broken"
[ $failures -eq 0 ] && echo "ok: $count headers"
exit $((failures > 0))
