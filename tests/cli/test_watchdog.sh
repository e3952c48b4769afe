#!/bin/bash
# A rank is stopped (SIGSTOP) or killed (SIGKILL) at a random moment of a training: the job ends in time, the
# message names that rank and no other, no process lives on and no shared memory is left over.
. "$(dirname "$0")/common.sh"
make_input
timeout_ms=2000
start_ms=10000 # that MPI's start is given at least
seed=${GLN_TEST_SEED:-$(($(date +%s) % 100000))}
echo "seed $seed (GLN_TEST_SEED repeats it)"
RANDOM=$seed

# rank_of PID: its rank, from the environment that mpirun gave it
rank_of() {
    tr '\0' '\n' <"/proc/$1/environ" 2>/dev/null | sed -n 's/^OMPI_COMM_WORLD_RANK=//p'
}

lives() { # PID: not gone and not merely unburied
    local state
    state=$(sed -n 's/.*) \(.\) .*/\1/p' "/proc/$1/stat" 2>/dev/null)
    [ -n "$state" ] && [ "$state" != Z ] && [ "$state" != X ]
}

wait_for() { # SECONDS COMMAND...: until it does well
    local end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $end ] || return 1
        sleep 0.02
    done
}

ranks_are_there() { # MPIRUN_PID RANKS: sets $pids, by rank
    local pid rank
    pids=()
    for pid in $(pgrep -P "$1"); do
        rank=$(rank_of "$pid")
        [ -n "$rank" ] && pids[rank]=$pid
    done
    [ ${#pids[@]} -eq "$2" ]
}

joined() { # RANKS: every rank has mapped what the ranks share
    local pid
    for pid in "${pids[@]}"; do
        grep -q gleaner-ranks "/proc/$pid/maps" 2>/dev/null || return 1
    done
}

# end_one RANKS SIGNAL RANK MOMENT DELAY_MS: MOMENT is started (MPI_Init may be under way), joined (the ranks know
# each other), or trained (at least one step)
end_one() {
    local ranks=$1 signal=$2 victim=$3 moment=$4 delay_ms=$5 what="$*" job begin took status shared pid
    rm -rf run
    timeout -k 5 60 mpirun -n "$ranks" "$gleaner" train run.yaml --set train.steps=100000000 \
        --set train.log_every=100 --set data.valid= --set parallel.timeout_ms=$timeout_ms >out 2>err </dev/null &
    job=$!
    wait_for 20 pgrep -P $job -x mpirun >/dev/null || wait_for 1 pgrep -P $job >/dev/null
    local mpirun_pid
    mpirun_pid=$(pgrep -P $job | head -n 1)
    if ! wait_for 20 ranks_are_there "$mpirun_pid" "$ranks" || { [ "$moment" != started ] && ! wait_for 30 joined; }; then
        fail "$what: the job did not start"
        kill -KILL "${pids[@]}" $job 2>/dev/null
        wait $job
        return
    fi
    [ "$moment" != trained ] || wait_for 30 test -s run/metrics.jsonl
    sleep "$(printf '%d.%03d' $((delay_ms / 1000)) $((delay_ms % 1000)))"
    shared=$(for pid in "${pids[@]}"; do grep -oE '(/dev/shm|/tmp/ompi)[^ ]*' "/proc/$pid/maps"; done 2>/dev/null | sort -u)
    begin=$(date +%s%N)
    kill "-$signal" "${pids[victim]}" || fail "$what: rank $victim was gone before"
    wait $job
    status=$?
    took=$((($(date +%s%N) - begin) / 1000000))
    echo "$what: status $status after $took ms: $(grep -m 1 'gleaner: error' err)"
    [ $status -ne 0 ] || fail "$what: exit status 0"
    # the promise is timeout + 2 s; a loaded machine gets twice that
    local limit_ms=$((2 * (timeout_ms + 2000)))
    [ "$moment" != started ] || limit_ms=$((2 * (start_ms + 2000)))
    [ $took -le $limit_ms ] || fail "$what: ended after $took ms"
    if [ "$signal" = STOP ]; then
        [ "$moment" = started ] || [ "$(grep -c 'gleaner: error' err)" -eq 1 ] || fail "$what: not one error line"
        grep 'gleaner: error' err | grep -qF "rank $victim (host $(hostname), pid ${pids[victim]}, stopped) did not arrive within " ||
            fail "$what: rank $victim is not named"
    else
        grep 'gleaner: error' err | grep -qF "rank $victim (host $(hostname), pid ${pids[victim]}, gone) left the job; operation " ||
            { [ "$moment" = started ] && grep -q "process rank $victim with PID" err; } ||
            fail "$what: rank $victim is not named: $(cat err)"
        [ "$(grep -c 'gleaner: error' err)" -le 1 ] || fail "$what: not one error line: $(cat err)"
    fi
    grep 'gleaner: error' err | grep -oE 'rank [0-9]+ \(host' | grep -vqE "^rank $victim " &&
        fail "$what: another rank is named: $(cat err)"
    for pid in "${pids[@]}"; do
        wait_for 3 eval "! lives $pid" || fail "$what: process $pid lives on"
    done
    for pid in $shared; do
        [ ! -e "$pid" ] || fail "$what: $pid is left over"
    done
    compgen -G "/tmp/ompi.*/pid.$mpirun_pid" >/dev/null && fail "$what: the session folder is left over"
    return 0
}

end_one 2 STOP 1 trained $((RANDOM % 700))
end_one 2 KILL 0 trained $((RANDOM % 700))
end_one 4 STOP $((RANDOM % 4)) trained $((RANDOM % 700))
end_one 4 STOP $((RANDOM % 4)) joined 0
end_one 4 KILL $((RANDOM % 4)) joined $((RANDOM % 100))
end_one 4 STOP 0 joined $((RANDOM % 200))
end_one 4 KILL $((RANDOM % 4)) trained $((RANDOM % 700))
end_one 4 STOP $((RANDOM % 4)) started $((RANDOM % 200))
end_one 4 KILL $((RANDOM % 4)) started $((RANDOM % 200))

# stopped before it even begins
timeout -k 5 60 mpirun -n 3 bash -c "[ \$OMPI_COMM_WORLD_RANK = 1 ] && kill -STOP \$\$; exec '$gleaner' train run.yaml \
    --set parallel.timeout_ms=$timeout_ms --set parallel.domains=3 --set train.batch=3 --set model.experts=9" >out 2>err </dev/null
status=$?
[ $status -ne 0 ] || fail "stopped at first: exit status $status"
grep 'gleaner: error' err | grep -q "rank 1 (host $(hostname), pid [0-9]*, stopped) did not arrive within $start_ms ms; operation start of MPI" ||
    fail "stopped at first: rank 1 is not named: $(cat err)"
finish
