#!/bin/bash
# Who includes whom: every #include "..." of the sources against the graph of the folders, and foreign headers
# against the folder that may use them.
source_dir=$2
cd "$source_dir" || exit 1
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# What a folder may include: itself, and what lies below it.
allowed() {
    case $1 in
    base) echo base ;;
    cluster) echo cluster base ;;
    kernels) echo kernels base ;;
    comm) echo comm cluster base ;;
    router) echo router kernels base ;;
    moe) echo moe router comm kernels cluster base ;;
    launcher) echo launcher moe router comm kernels cluster base ;;
    esac
}
# The folders that may include a foreign header.
homes() {
    case $1 in
    mpi.h) echo comm ;;
    hwloc.h | hwloc/*) echo cluster ;;
    dnnl.h | dnnl.hpp | dnnl_*.h | oneapi/* | omp.h) echo kernels ;;
    yaml.h) echo base ;;
    jansson.h) echo moe launcher ;;
    xxhash.h) echo moe ;;
    zlib.h) echo launcher ;;
    *) echo any ;;
    esac
}

count=0
for folder in base cluster kernels comm router moe launcher; do
    while IFS=: read -r file include; do
        count=$((count + 1))
        top=${include%%/*}
        if [[ $include != */* ]]; then
            fail "$file includes \"$include\": paths start at the root of the repository"
        elif [[ " $(allowed $folder) " != *" $top "* ]]; then
            fail "$file includes \"$include\": $folder may include $(allowed $folder)"
        fi
        [ -e "$include" ] || fail "$file includes \"$include\", which is not there"
        [[ $include == *_internal.h && $top != "$folder" ]] &&
            fail "$file includes \"$include\", which is internal to $top"
    done < <(grep -rHoE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]*"' "$folder" --include='*.[ch]' \
        --include='*.inc' | sed -E 's/:.*"([^"]*)"/:\1/')
    while IFS=: read -r file include; do
        home=$(homes "$include")
        [[ $home == any || " $home " == *" $folder "* ]] ||
            fail "$file includes <$include>: only $home may"
    done < <(grep -rHoE '^[[:space:]]*#[[:space:]]*include[[:space:]]*<[^>]*>' "$folder" --include='*.[ch]' \
        --include='*.inc' | sed -E 's/:.*<([^>]*)>/:\1/')
    # nothing below the launcher prints, exits or reads the environment
    [ $folder = launcher ] && continue
    grep -rnE '(^|[^A-Za-z0-9_])(printf|puts|putchar|getenv|exit|_exit|perror)[[:space:]]*\(' "$folder" --include='*.[ch]' |
        grep -vE ':[[:space:]]*(\*|/\*|//)' >/tmp/forbidden.$$ &&
        fail "$folder prints, exits or reads the environment: $(head -n 3 /tmp/forbidden.$$)"
    rm -f /tmp/forbidden.$$
done
[ $count -ge 50 ] || fail "only $count includes were found: the scan is broken"
[ $failures -eq 0 ] && echo "ok: $count includes"
exit $((failures > 0))
