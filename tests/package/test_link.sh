#!/bin/bash
# examples/c against the installed package: by CMake and by pkg-config, shared and static, each run on 2 ranks with
# the same last lines. The sources are copied, so that nothing of this repository can be found by accident.
. "$(dirname "$0")/common.sh" "$@"
cp -r "$source_dir/examples/c" "$work/c"
cd "$work/c" || exit 1

runs() { # WHAT PROGRAM: loss falls (the program's exit status), and the output is the first one's
    mpirun -n 2 "$2" >"$work/out" 2>&1 || {
        cat "$work/out"
        fail "$1: exit status not 0"
        return
    }
    grep -q '^step 200 ' "$work/out" || fail "$1: no loss is printed"
    sort "$work/out" >"$work/sorted"
    [ -e "$work/first" ] || cp "$work/sorted" "$work/first"
    cmp -s "$work/sorted" "$work/first" || fail "$1: another output than the first program's"
}
needs_shared() { # WHAT PROGRAM yes|no
    local found=no
    readelf -d "$2" | grep -q 'NEEDED.*libgleaner\.so\.[0-9]*\.[0-9]*\]' && found=yes
    [ $found = "$3" ] || fail "$1: needs libgleaner.so with a versioned name: $found, expected $3"
}

for static in OFF ON; do
    what="cmake, static $static"
    shared=$([ $static = OFF ] && echo yes || echo no)
    if cmake -S . -B "$work/build-$static" -DCMAKE_PREFIX_PATH="$prefix" -DSTATIC=$static >"$work/log" 2>&1 &&
        cmake --build "$work/build-$static" >>"$work/log" 2>&1; then
        needs_shared "$what" "$work/build-$static/trainer" $shared
        runs "$what" "$work/build-$static/trainer"
    else
        tail -n 30 "$work/log"
        fail "$what: does not build"
    fi
done

export PKG_CONFIG_PATH=$libdir/pkgconfig
for static in "" 1; do
    what="pkg-config, static \"$static\""
    shared=$([ -z "$static" ] && echo yes || echo no)
    if make OUT="trainer$static" ${static:+STATIC=1} >"$work/log" 2>&1; then
        needs_shared "$what" "./trainer$static" $shared
        runs "$what" "./trainer$static"
    else
        tail -n 30 "$work/log"
        fail "$what: does not build"
    fi
done

# one version everywhere, and one that is too new is refused
version=$("$prefix/bin/gleaner" --version | cut -d' ' -f2)
[ "$(pkg-config --modversion gleaner)" = "$version" ] || fail "gleaner.pc and gleaner --version differ"
[ -e "$libdir/libgleaner.so.$version" ] || fail "no libgleaner.so.$version"
soname=$(readelf -d "$so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[ "$soname" = "libgleaner.so.${version%.*}" ] || fail "soname is $soname"
mkdir "$work/newer"
printf 'cmake_minimum_required(VERSION 3.22)\nproject(x NONE)\nfind_package(gleaner 99.0 REQUIRED)\n' >"$work/newer/CMakeLists.txt"
cmake -S "$work/newer" -B "$work/newer/build" -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" 2>&1 &&
    fail "find_package(gleaner 99.0) is content with $version"
grep -q 'version: '"$version" "$work/log" || fail "CMake does not name the version it found"

# nothing installed speaks of where it was built
grep -rlIF -e "$build_dir" -e "$source_dir" "$prefix" | grep . && fail "these files name the folders of the build"
finish
