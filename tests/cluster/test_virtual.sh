#!/bin/bash
# MPI jobs across several virtual hosts: training gives the bits of a run on one host, in both forms of the exchange;
# the counters of the network cards agree with what the exchange says it sent; run.sh leaves nothing behind, whatever
# ends it. Skipped where the machine permits no network namespaces.
. "$(dirname "$0")/../cli/common.sh"
wire_exchange=$(realpath "$3" 2>/dev/null || (cd "$OLDPWD" && realpath "$3"))
cluster=$source_dir/cluster/virtual/run.sh
make_input

"$cluster" --hosts 2 --ranks-per-host 1 -- true >out 2>err
case $? in
0) ;;
77)
    cat err
    exit 77
    ;;
*) fail "run.sh cannot run true: $(cat err)" && finish ;;
esac

# The value of the last KEY in ./out.
figure() { sed -nE "s/.*\"$1\":\"?([^\",}]*).*/\1/p" out | tail -n 1; } # KEY

# on_hosts HOSTS RANKS_PER_HOST RATE COMMAND...: into ./out and ./err; must do well.
on_hosts() {
    timeout -k 20 "${limit_s:-120}" "$cluster" --hosts "$1" --ranks-per-host "$2" --rate "$3" --json -- "${@:4}" \
        >out 2>err </dev/null || {
        fail "${*:4} on $1 hosts: exit status $?"
        tail -n 20 err
    }
}

# Losses, ledgers and checkpoint of run NAME against those of run `one`.
same_as_one() { # NAME
    same_lines "$1/metrics.jsonl" >"$1.lines"
    must_run 0 ckpt digest "$1"
    mv out "$1.digest"
    [ "$(wc -l <"$1.lines")" -eq 8 ] || fail "$1: expected 8 lines of metrics"
    [ "$1" = one ] && return
    cmp -s one.lines "$1.lines" || fail "$1: other losses or ledgers than on one rank"
    cmp -s one.digest "$1.digest" || fail "$1: other checkpoint than on one rank"
}
training=(train run.yaml --json --set parallel.domains=8 --set train.steps=8 --set router.k=2)
must_run 1 "${training[@]}" --set run.dir=one
same_as_one one
for ranks in 4 8; do
    must_run $ranks "${training[@]}" --set run.dir=single-$ranks
    same_as_one single-$ranks
done
for hosts in 2 4; do
    for form in flat hierarchical; do
        dir=$form-$hosts
        on_hosts $hosts 2 200mbit "$gleaner" "${training[@]}" --set "run.dir=$dir" --set parallel.exchange=$form
        grep -q "\"nodes\":$hosts,.*\"exchange\":\"$form\"" out || fail "$dir: not $hosts nodes, or not the form asked for"
        same_as_one "$dir"
    done
done

# By itself: the hierarchical form where a token's rows share a slow link, the flat one where a node hosts one domain.
automatic() { # RANKS_PER_HOST DOMAINS NAME FORM REASON
    on_hosts 2 "$1" 100mbit "$gleaner" train run.yaml --json --set "run.dir=$3" --set "parallel.domains=$2" --set train.steps=1 \
        --set model.layers=1 --set model.hidden=256 --set model.sequence=64 --set model.experts=64 --set train.batch=32 --set router.k=8
    grep -q 'links are not shaped' err && return # then flat may be faster
    [ "$(figure exchange)" = "$4" ] || fail "$3: expected $4, found $(figure exchange): $(figure exchange_reason)"
    grep -qE "\"exchange_reason\":\"$5" out || fail "$3: another reason: $(figure exchange_reason)"
    [ "$(figure path_reason | wc -w)" -gt 1 ] || fail "$3: no reason of the path"
}
automatic 4 8 wide hierarchical 'predicted for 2 nodes of 4 ranks and 174 rows a pair'
automatic 1 2 alone flat 'every node hosts one domain'

# Bytes: what the cards counted against what the exchange says, and rows against a count of the plan's pairs.
wire() { # HOSTS RANKS_PER_HOST FORM
    local name="$3 on $1 x $2" rows
    on_hosts "$1" "$2" 500mbit "$wire_exchange" form "$3" k 8 steps 4 tokens 256
    rows=$(figure flat_rows)
    [ "$3" = flat ] || rows=$(figure pairs)
    [ "$(figure nodes) $(figure dispatch_rows) $(figure combine_rows)" = "$1 $rows $rows" ] ||
        fail "$name: $(figure nodes) nodes, $(figure dispatch_rows) and $(figure combine_rows) rows, expected $1, $rows"
    said=$(figure remote_bytes) counted=$(figure bytes) digest=$(figure digest)
    awk -v said="$said" -v counted="$counted" \
        'BEGIN { printf "%.2f %% more on the wire than in rows\n", (counted / said - 1) * 100
                 exit !(said > 1e7 && counted >= said && counted <= said * 1.03) }' ||
        fail "$name: the cards counted $counted bytes, the exchange said $said"
}
for shape in "2 2" "4 2" "2 4"; do
    read -r hosts each <<<"$shape"
    timeout 60 mpirun -n $((hosts * each)) "$wire_exchange" k 8 steps 4 tokens 256 >out 2>err || fail "wire_exchange on one host"
    expected=$(figure digest)
    wire "$hosts" "$each" flat
    flat=$counted
    [ "$digest" = "$expected" ] || fail "flat on $shape: other sums than on one host"
    wire "$hosts" "$each" hierarchical
    [ "$digest" = "$expected" ] || fail "hierarchical on $shape: other sums than on one host"
done
awk -v a="$flat" -v b="$counted" 'BEGIN { printf "2 x 4, k = 8: %.3f of the bytes of flat\n", b / a; exit !(b <= 0.45 * a) }' ||
    fail "hierarchical sent $counted bytes, flat $flat: more than 0.45"

# The same for training. Gradients and losses travel too: what a run sends that rectifies every token, and so no row.
sed '/valid:/d' run.yaml >rows.yaml
trained() { # FORM CAPACITY_FACTOR: sets $counted, $said
    on_hosts 2 2 500mbit "$gleaner" train rows.yaml --set "parallel.exchange=$1" --set "router.capacity_factor=$2" \
        --set "run.dir=rows-$1-$2" --set router.k=2 --set model.hidden=256 --set model.layers=1 \
        --set model.sequence=64 --set train.batch=32
    counted=$(figure bytes)
    said=$(awk '{ sub(/.*"remote_bytes":/, ""); sum += $0 } END { printf "%d", sum }' "rows-$1-$2/metrics.jsonl")
}
for form in flat hierarchical; do
    trained $form 0
    [ "$said" -eq 0 ] || fail "training without slots sent $said bytes of rows"
    rest=$counted
    trained $form 2
    awk -v said="$said" -v counted=$((counted - rest)) \
        'BEGIN { printf "training: %.2f %% more on the wire than in rows\n", (counted / said - 1) * 100
                 exit !(said > 1e7 && counted >= said && counted <= said * 1.03) }' ||
        fail "training, $form: the cards counted $counted - $rest bytes, the ledger says $said"
done

# How it ends. A job's processes carry a name of their own, so that they can be found.
name=gleaner_virtual_$$
printf '#!/bin/bash\n%s\nexec -a %s sleep 300\n' "\${1:+trap '' TERM}" "$name" >long.sh
left() { # PID of run.sh: what is left of it
    ip netns list | grep "glv$1-"
    ip link | grep -E "glv$1|: e[01]-[0-9]|: net[01]:"
    pgrep -f "^$name"
    ls -d "/tmp/glv$1".* 2>/dev/null
}
wait_for() { # COMMAND...: up to 20 s
    for _ in {1..200}; do
        "$@" >/dev/null && return
        sleep 0.1
    done
    fail "waited in vain for: $*"
}
start_long() { # WORDS...: run.sh with a long job; sets $pid
    env --default-signal=INT,HUP,TERM "$cluster" --hosts 2 --ranks-per-host 1 --rate 100mbit -- bash "$work/long.sh" "$@" \
        >out 2>err </dev/null &
    pid=$!
    wait_for eval "[ \"\$(pgrep -fc '^$name')\" -eq 2 ]"
}
for end in HUP:129: INT:130: TERM:143: TERM:143:stubborn; do
    IFS=: read -r signal expected stubborn <<<"$end"
    start_long $stubborn
    kill -"$signal" "$pid"
    wait_for eval "! kill -0 $pid 2>/dev/null"
    wait "$pid"
    status=$?
    [ $status -eq "$expected" ] || fail "$signal $stubborn: exit status $status, expected $expected"
    rest=$(left "$pid")
    [ -z "$rest" ] || fail "$signal $stubborn: left behind: $rest"
done
start_long
kill -KILL "$pid"
wait "$pid" 2>/dev/null
[ -n "$(left "$pid")" ] || fail "a killed run.sh left nothing: the search for rests finds nothing"
on_hosts 2 1 1gbit true
rest=$(left "$pid")
[ -z "$rest" ] || fail "the next run did not remove what a killed one left: $rest"

"$cluster" --hosts 2 --ranks-per-host 1 -- bash -c 'exit 5' >out 2>err
[ $? -eq 5 ] || fail "a job that leaves with 5 does not give 5"
# side by side, each with its own counters
"$cluster" --hosts 2 --ranks-per-host 1 --json --count one.json -- sleep 2 >/dev/null 2>&1 &
on_hosts 2 1 1gbit "$wire_exchange" steps 2
wait $!
[ "$(figure bytes)" -gt 1000000 ] || fail "the job sent $(figure bytes) bytes"
sed -nE 's/.*"event":"wire".*"bytes":([0-9]+).*/\1/p' one.json | awk '$1 < 10000 { ok = 1 } END { exit !ok }' ||
    fail "a job that sends nothing was charged: $(cat one.json)"
echo 'mpirun -n 4 hostname' | "$cluster" --shell >out 2>err
[ "$(grep -c '^node[01]$' out)" -eq 4 ] || fail "--shell: $(cat out err)"
"$cluster" --hosts 0 -- true >out 2>err
[ $? -eq 2 ] || fail "--hosts 0 was taken"
finish
