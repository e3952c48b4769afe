#!/bin/bash
# gleaner topo: machines from files and descriptions with ranks planned on them, and the job's own; text, JSON and SVG.
# And parallel.bind, which does what topo draws.
. "$(dirname "$0")/common.sh"
make_input
machines=$source_dir/tests/data/topology

says() { # WHAT TEXT [FILE]
    grep -qF -- "$2" "${3:-out}" || {
        fail "$1: \"$2\" is not in the output"
        head -n 40 "${3:-out}"
    }
}
documented() { # FILE
    local key
    for key in $(grep -oE '"[a-z_0-9]+":' "$1" | tr -d '":' | sort -u); do
        grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
    done
}
lines() { # WHAT COUNT PATTERN FILE
    local found
    found=$(grep -cE -- "$3" "$4")
    [ "$found" -eq "$2" ] || fail "$1: expected $2 lines with $3, found $found"
}

# machines out of files: ranks near their GPUs, by hand from the file
must_run 0 topo --xml "$machines/gpu8-nvswitch.xml"
says gpu8 "1 node, 8 ranks planned, each rank near its GPU"
says gpu8 "node 0  dgx01: 2 packages, 8 NUMA nodes, 32 cores, 64 PUs"
says gpu8 "    L3 6   12-13     [0][0]"
says gpu8 "    L3 15  30-31     [5][5]"
says gpu8 "    L3 0   0-1       [.][.]"
says gpu8 "GPU  cuda6         0000:b7:00.0  NVIDIA A100-SXM4-40GB  rank 6"
says gpu8 "    cuda0            -   300   300   300   300   300   300   300"
says gpu8 "    NUMA node 3     12    12    12    10    32    32    32    32"
says gpu8 "  rank 5  node 0  NUMA node 7  cores 30-31  GPU cuda5  NIC mlx5_2"
says gpu8 "  rank 5  m m m m n - m m"
must_run 0 topo --xml "$machines/epyc-nps4.xml" --ranks 8
says nps4 "8 ranks planned, even shares of the cores"
says nps4 "    L3 7   56-63     [7][7][7][7][7][7][7][7]"
says nps4 "  rank 1  node 0  NUMA node 0  cores 8-15"
must_run 0 topo --xml "$machines/gpu2-nodriver.xml"
says nodriver "even shares of the cores"
says nodriver "links between GPUs: none known but PCI"
must_run 0 topo --synthetic "package:2 numa:1 l3:2 core:3 pu:2" --ranks 24
says synthetic "not bound: 24 ranks share 12 cores"
says synthetic "24 ranks on 1 node, 24 each"

# with a run file: domains and experts; its backend computes on cores
must_run 0 topo --xml "$machines/gpu4-nvlink.xml" run.yaml
says run "  rank 3  node 0  NUMA node 3  cores 24-31  domain 3, experts 6-7"
must_run 0 topo --xml "$machines/gpu4-nvlink.xml" run.yaml --ranks 2 --set parallel.expert_replicas=2
says replicas "  rank 1  node 0  cores 16-31  domains 2-3, experts 0-7"

# JSON and SVG of the same
must_run 0 topo --xml "$machines/gpu8-nvswitch.xml" --json --svg gpu8.svg
documented out
lines json 1 '"topo":"node"' out
lines json 13 '"topo":"device"' out
lines json 56 '"topo":"link".*"bytes_per_second":300000000000' out
lines json 64 '"topo":"latency"' out
lines json 8 '"topo":"rank"' out
says json '"rank":2,"node":0,"host":"dgx01","numa_node":1,"package":0,"cores":[4,5],"bound":true,"gpu":2,"nic":8'
lines svg 28 '^<path ' gpu8.svg
lines svg 8 '>rank [0-7]: node 0' gpu8.svg
lines svg 16 'class="cell"' gpu8.svg
tail -n 1 gpu8.svg | grep -q '^</svg>$' || fail "gpu8.svg is not whole"
if command -v python3 >/dev/null; then
    python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse("gpu8.svg")' || fail "gpu8.svg is not XML"
fi
must_run 0 topo --synthetic "package:1 core:2 pu:1" run.yaml --ranks 2 --json
documented out
says "json of a run" '"domains":[2,3],"experts":[4,7]'

# the job's own machine
must_run 0 topo
says "this machine" "this machine: 1 node, 1 rank"
must_run 3 topo run.yaml --set parallel.domains=6 --set model.experts=6 --set train.batch=12
says job "this job: 1 node, 3 ranks"
says job "domains 4-5, experts 4-5"
lines job 3 '^  rank [0-2]  node 0 ' out
must_run 2 topo --json
documented out
lines "json of a job" 2 '"topo":"rank"' out
must_run 2 topo --xml "$machines/xeon-2s.xml" # one rank draws
lines "planned under mpirun" 1 '2 packages, 2 NUMA nodes' out

# mistakes
bad() { # PATTERN ARGUMENTS...
    local pattern=$1
    shift
    run 0 "$@"
    [ "$status" -eq 2 ] || fail "gleaner $*: exit status $status instead of 2"
    says "gleaner $*" "$pattern" err
    [ "$(wc -l <err)" -eq 1 ] || fail "gleaner $*: expected one line of error"
}
bad "nowhere.xml: No such file" topo --xml nowhere.xml
bad "expected hwloc's XML" topo --xml run.yaml
bad 'found "package:two"' topo --synthetic package:two
bad "expected one of them" topo --synthetic pu:1 --xml nowhere.xml
bad "at most 2048 cores" topo --synthetic "package:64 core:64 pu:1"
bad "--ranks" topo --ranks 0
bad "expected a run file" topo --set parallel.domains=2
bad "parallel.domains" topo --synthetic pu:8 --ranks 3 run.yaml
bad "cannot write missing/a.svg" topo --synthetic pu:1 --svg missing/a.svg

# parallel.bind: the same bits, bound or not; what it says is so
must_run 2 train run.yaml --set parallel.bind=none --set run.dir=none
grep -q parallel.bind out && fail "bind none: it speaks of binding"
must_run 2 train run.yaml --set run.dir=auto
says auto "parallel.bind auto: rank 0 "
must_run 2 train run.yaml --set run.dir=auto --set train.steps=6 --set parallel.bind=none
grep -E '^ +changed' out | grep -q parallel.bind && fail "a changed parallel.bind is listed"
must_run 2 train run.yaml --set run.dir=none --set train.steps=6
must_run 0 ckpt digest none
cp out first
must_run 0 ckpt digest auto
cmp -s out first || fail "parallel.bind changes the digest"
must_run 2 info --json
documented out
if [ "$(nproc)" -eq 2 ] && grep -q '"bind":"to be bound to core 0"' out; then
    must_run 2 train run.yaml --set run.dir=bound
    says bound "binding   rank 0 on core 0; 1 thread a rank"
    says bound "2 of 2 ranks bound by it"
    must_run 2 train run.yaml --set run.dir=threads --set parallel.threads=2
    says threads "not bound: 2 threads asked for, but 1 core a rank"
    must_run 3 info
    says crowd "not bound: 3 ranks share 2 cores"
    if command -v taskset >/dev/null; then
        gleaner_alone=$gleaner
        printf '#!/bin/sh\nexec taskset -c 1 "%s" "$@"\n' "$gleaner" >only_one
        chmod +x only_one
        gleaner=$work/only_one
        must_run 2 train run.yaml --set run.dir=confined
        gleaner=$gleaner_alone
        says confined "left as it was started: bound already"
        says confined "rank 0 on core 1"
    fi
else
    echo "note: not two free cores: what binding does was not looked at"
fi
finish
