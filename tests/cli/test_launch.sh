#!/bin/bash
# gleaner launch: the command that it builds, and how it sees a training through: a killed rank, failures without
# progress, bad input, signals, hosts that go away.
. "$(dirname "$0")/common.sh"
make_input
real_mpirun=$(command -v mpirun)
unset OMPI_MCA_rmaps_base_oversubscribe OMPI_MCA_mpi_yield_when_idle OMPI_MCA_hwloc_base_binding_policy \
    OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM SLURM_JOB_ID # launch must do without

says() { # WHAT PATTERN FILE
    grep -qE -- "$2" "$3" || {
        fail "$1: \"$2\" is not in the output"
        head -n 5 "$3"
    }
}
says_not() { # WHAT PATTERN FILE
    ! grep -qE -- "$2" "$3" || fail "$1: \"$2\" is in the output: $(head -n 5 "$3")"
}
wait_for() { # SECONDS COMMAND...: until it does well
    local end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $end ] || return 1
        sleep 0.01
    done
}
digest() { "$gleaner" ckpt digest "$1"; }

# An mpirun that says it is VERSION and runs SCRIPT with the words in $*; every start is a line of ./starts.
fake_mpirun() { # VERSION SCRIPT
    mkdir -p fake
    rm -f starts
    cat >fake/mpirun <<FAKE
#!/bin/bash
[ "\$1" = --version ] && echo "$1" && exit 0
echo "\$*" >>"$work/starts"
start=\$(wc -l <"$work/starts")
$2
FAKE
    chmod +x fake/mpirun
}
with_fake() { PATH=$work/fake:$PATH run "$@"; }

# what it prints
must_run 0 launch -n 4 run.yaml --set "run.dir=a b" --dry-run
[ "$(wc -l <out)" -eq 1 ] || fail "dry run: expected one line: $(cat out)"
says "dry run" '^mpirun .*-n 4 .*--bind-to none .*/gleaner train run.yaml --set '"'run.dir=a b'"'$' out
if [ "$(id -u)" -eq 0 ]; then
    says "dry run" ' --allow-run-as-root ' out
else
    says_not "dry run" ' --allow-run-as-root ' out
fi
OMPI_MCA_btl=self,vader must_run 0 launch --ranks 1 run.yaml --dry-run
says "environment" '^env OMPI_MCA_btl=self,vader mpirun .*-n 1 ' out
says_not "one rank" 'OVERSUBSCRIBE|yield' out
must_run 0 launch -n 64 run.yaml --dry-run --set parallel.domains=64 --set model.experts=64 --set train.batch=64
if [ "$(nproc)" -lt 64 ]; then
    says "more ranks than cores" ' --map-by slot:OVERSUBSCRIBE .*--mca mpi_yield_when_idle 1 ' out
    says "more ranks than cores" '64 ranks on [0-9]+ cores: they share cores' err
fi
must_run 0 launch run.yaml --dry-run --set parallel.domains=1 # all that fits
says "domains decide" ' -n 1 ' out
printf 'localhost slots=5 # here\n\nfar.example slots=2\n' >hosts
must_run 0 launch --hosts hosts run.yaml --dry-run
says "hosts" ' -n 4 .*--hostfile hosts ' out # 7 slots, 4 domains
must_run 0 launch --hosts hosts --ranks-per-host 1 run.yaml --dry-run
says "ranks per host" ' -n 2 .*--host localhost:1,far.example:1 ' out
OMPI_MCA_orte_default_hostfile=hosts must_run 0 launch run.yaml --dry-run
says "default hosts" ' --hostfile hosts ' out
fake_mpirun "mpirun (Open MPI) 5.0.3" "exit 0"
with_fake 0 launch -n 4 run.yaml --dry-run
says "Open MPI 5" '^mpirun .*-n 4 --bind-to none --map-by slot' out
[ ! -e starts ] || fail "a dry run started something"
(
    failures=0
    export SLURM_JOB_ID=1 SLURM_NTASKS=4
    must_run 0 launch run.yaml --dry-run
    says "Slurm" '^(env [^ ]*)?srun --mpi=pmix --kill-on-bad-exit=0 --wait=60 [^ ]*/gleaner train run.yaml$' out
    must_run 0 launch -n 2 run.yaml --dry-run
    says "Slurm, -n" 'srun .* -n 2 ' out
    must_run 0 launch --starter mpirun run.yaml --dry-run
    says "Slurm, mpirun" 'mpirun .*-n 4 ' out
    must_run 0 launch --starter mpirun --hosts hosts run.yaml --dry-run
    says "Slurm, hosts" 'mpirun .*--hostfile hosts ' out
    exit $failures
) || failures=$((failures + $?))

# bad words and files: status 2, and nothing is made
refused() { # WHAT PATTERN ARGUMENTS...
    run 0 launch "${@:3}"
    [ "$status" -eq 2 ] || fail "$1: exit status $status"
    says "$1" "$2" err
    [ ! -e run ] || fail "$1: made a run directory"
}
refused "no number of ranks" 'multiple of the 3 ranks' -n 3 run.yaml
refused "no run file" 'nowhere.yaml' nowhere.yaml
refused "no hosts file" '--hosts: cannot read nowhere' --hosts nowhere run.yaml
echo "node0 slots=none" >bad
refused "bad hosts" 'bad:1: expected NAME \[slots=N\]' --hosts bad run.yaml
echo "# nobody" >bad
refused "empty hosts" 'bad names no host' --hosts bad run.yaml
refused "starter" '--starter: expected mpirun or srun' --starter ssh run.yaml
refused "srun without a job" 'no Slurm job' --starter srun run.yaml
refused "ranks per host alone" 'needs --hosts' --ranks-per-host 2 run.yaml
printf '#!/bin/bash\n[ "$1" != far.example ]\n' >agent && chmod +x agent
OMPI_MCA_plm_rsh_agent=$work/agent refused "unknown host" 'hosts: cannot be reached: far.example' --hosts hosts run.yaml
OMPI_COMM_WORLD_SIZE=2 refused "under mpirun" 'started as a rank' run.yaml
fake_mpirun "HYDRA build details:" "exit 0"
with_fake 0 launch run.yaml
[ "$status" -eq 1 ] || fail "another MPI: exit status $status"
says "another MPI" 'expected Open MPI 4 or 5' err

# bad input is not tried again
fake_mpirun "mpirun (Open MPI) 4.1.4" "exec $real_mpirun \"\$@\""
with_fake 0 launch run.yaml -n 2 --set data.train=nowhere.txt
[ "$status" -eq 2 ] || fail "bad input: exit status $status"
[ "$(wc -l <starts)" -eq 1 ] || fail "bad input: $(wc -l <starts) starts"
[ ! -e run ] || fail "bad input: made a run directory"

# failures without progress
fake_mpirun "mpirun (Open MPI) 4.1.4" "exit 137"
with_fake 0 launch run.yaml -n 2 --retries 1
[ "$status" -eq 1 ] || fail "retries: exit status $status"
[ "$(wc -l <starts)" -eq 2 ] || fail "retries: $(wc -l <starts) starts, expected 2"
says "retries" 'try 1 of 1 begins in 1 s' err
says "retries" 'given up after 2 tries' err

# progress: retries are counted anew
fake_mpirun "mpirun (Open MPI) 4.1.4" \
    "[ \$start -gt 3 ] && exit 0; $real_mpirun \"\$@\" --set train.steps=\$start; exit 134"
with_fake 0 launch run.yaml -n 2 --retries 1 --set run.dir=anew
[ "$status" -eq 0 ] || fail "progress: exit status $status: $(cat err)"
[ "$(wc -l <starts)" -eq 4 ] || fail "progress: $(wc -l <starts) starts, expected 4"
[ "$(grep -c 'try 1 of 1 begins in 1 s' anew/launch.log)" -eq 3 ] || fail "progress: $(cat anew/launch.log)"

# a killed rank: the same bytes as if nothing had happened
steps="--set train.steps=1200 --set train.checkpoint_every=150 --set train.log_every=100 --set data.valid="
must_run 0 launch run.yaml -n 2 $steps --set run.dir=calm
says "calm" 'launch: done$' calm/launch.log
kill_rank() { # DIR: rank 1, once there is a checkpoint
    local starter pid
    wait_for 60 compgen -G "$1/checkpoints/step-*0" >/dev/null || return 1
    starter=$(pgrep -P "$job" -x mpirun)
    for pid in $(pgrep -P "$starter"); do
        tr '\0' '\n' <"/proc/$pid/environ" | grep -q '^OMPI_COMM_WORLD_RANK=1$' && kill -KILL "$pid" && return 0
    done
    return 1
}
launch() { # ARGUMENTS...: in the background
    "$gleaner" launch "$@" >out 2>err </dev/null &
    job=$!
}
ended() { # WHAT STATUS
    wait_for 60 eval '! kill -0 $job 2>/dev/null' || {
        fail "$1: does not end: $(tail -n 5 err)"
        kill -KILL $job
    }
    wait $job
    status=$?
    [ $status -eq "$2" ] || fail "$1: exit status $status, expected $2: $(tail -n 5 err)"
}
launch run.yaml -n 2 $steps --set run.dir=killed
kill_rank killed || fail "killed rank: there was none to kill"
ended "killed rank" 0
says "killed rank" 'launch: failed with status .*; try 1 of 3 begins in 1 s from killed/checkpoints/step-' killed/launch.log
says "killed rank" 'launch: done$' killed/launch.log
says "killed rank" 'going on from step' out
[ "$(digest calm)" = "$(digest killed)" ] || fail "killed rank: another digest"

# signals
endless="--set train.steps=1000000 --set train.log_every=100 --set data.valid="
for signal in USR1 TERM INT; do
    launch run.yaml -n 2 $endless --set run.dir=signal-$signal
    wait_for 30 test -s signal-$signal/metrics.jsonl || fail "$signal: did not start"
    kill -$signal $job
    ended $signal 75
    says $signal 'ranks are asked to save' signal-$signal/launch.log
    says $signal 'stopped, saved' signal-$signal/launch.log
    compgen -G "signal-$signal/checkpoints/step-*" >/dev/null || fail "$signal: no checkpoint"
done
fake_mpirun "mpirun (Open MPI) 4.1.4" "trap '' USR1; trap 'touch $work/ended; exit 143' TERM; touch $work/ready; while :; do sleep 0.05; done"
PATH=$work/fake:$PATH launch run.yaml -n 2
wait_for 10 test -e ready
kill -USR1 $job
wait_for 10 grep -q 'another one ends them' err
kill -TERM $job
ended "two signals" $((128 + 10))
[ -e ended ] || fail "two signals: the starter was not ended"

# a host goes away: fewer ranks, the same domains, the same bytes
printf 'localhost slots=1\nfar.example slots=3\n' >hosts
sed -i 's/  domains: 4/  domains: 0/' run.yaml
printf '#!/bin/bash\n[ ! -e %s/gone ]\n' "$work" >agent
export OMPI_MCA_plm_rsh_agent=$work/agent
tail='"${@:$(($(printf "%s\n" "$@" | grep -n "/gleaner$" | cut -d: -f1)))}"'
fake_mpirun "mpirun (Open MPI) 4.1.4" \
    "if [ \$start -eq 1 ]; then touch $work/gone; n=4 more='--set train.steps=10'; else n=1 more=; fi
$real_mpirun --allow-run-as-root --bind-to none --map-by slot:OVERSUBSCRIBE -n \$n $tail \$more
[ \$start -gt 1 ] || exit 137"
with_fake 0 launch --hosts hosts run.yaml --set train.steps=20 --set run.dir=fewer
[ "$status" -eq 0 ] || fail "host gone: exit status $status: $(tail -n 5 err)"
says "host gone" 'cannot be reached: far.example' fewer/launch.log
says "host gone" '1 ranks instead of 4' fewer/launch.log
says "host gone" '^.*-n 4 .*--hostfile hosts ' starts
says "host gone" '^.*-n 1 .*--host localhost:1 .*--set parallel.domains=4' starts
must_run 0 launch run.yaml -n 2 --set parallel.domains=4 --set train.steps=20 --set run.dir=many
[ "$(digest many)" = "$(digest fewer)" ] || fail "host gone: another digest"
finish
