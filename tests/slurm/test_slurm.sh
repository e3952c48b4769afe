#!/bin/bash
# The batch scripts of cluster/slurm on a real Slurm of two virtual nodes: they finish under srun --mpi=pmix and under mpirun; a run that
# meets its time limit is put back into the queue and goes on; so is one that loses a node; an array trains every line. All end with the
# losses of an undisturbed run, bit for bit.
#     bash test_slurm.sh GLEANER SOURCE_DIR
if [ -z "${GLN_SLURM:-}" ]; then
    exec bash "$(dirname "$0")/cluster.sh" bash "$0" "$@"
fi
. "$(dirname "$0")/../cli/common.sh"
export GLEANER=$gleaner GLN_SCRIPTS=$source_dir/cluster/slurm
export OMPI_MCA_btl=tcp,vader,self OMPI_MCA_pml=ob1 OMPI_MCA_btl_tcp_if_include=10.78.0.0/24 OMPI_MCA_oob_tcp_if_include=10.78.0.0/24
make_input
limit_s=200

# wait_for SECONDS TEXT CONDITION...: until the condition holds
wait_for() {
    local tenths=$(($1 * 10)) text=$2
    shift 2
    while [ $tenths -gt 0 ]; do
        "$@" && return
        sleep 0.1
        tenths=$((tenths - 1))
    done
    fail "$text: not within the time given"
    squeue
    tail -n 20 "$(ls -t "$work"/slurm-*.out | head -n 1)"
    finish
}
gone() { [ -z "$(squeue -h -j "$1" 2>/dev/null)" ]; }
state() { scontrol show job "$1" | grep -oE 'JobState=[A-Z_]+'; }
submit() { # ARGUMENTS of sbatch: sets $id
    id=$(sbatch --parsable --output="$work/slurm-%j.out" "$@") || fail "sbatch $*"
}
# A job that was put back waits for its begin time, which Slurm sets two minutes ahead: not here.
release() {
    scontrol update jobid="$1" starttime=now 2>/dev/null
    scontrol release "$1" 2>/dev/null
    true
}
steps() { grep -cs grad_norm "$1/metrics.jsonl"; }
starts() { cat "$work/slurm-$1.out" 2>/dev/null | grep -c "^job .* start "; }
at_least() { [ "0$(steps "$1")" -ge "$2" ]; }
restarted() {
    release "$1"
    [ "$(starts "$1")" -ge "$2" ]
}
same() { # RUN WHAT
    same_lines "$1/metrics.jsonl" | cmp -s - want || fail "$2: other losses than the undisturbed run"
    run 0 ckpt digest "$1"
    cmp -s out want.digest || fail "$2: another checkpoint than the undisturbed run"
}

long=(--set train.steps=400 --set train.decay_steps=400 --set train.checkpoint_every=20)
must_run 4 train run.yaml "${long[@]}" --set run.dir=undisturbed
same_lines undisturbed/metrics.jsonl >want
must_run 0 ckpt digest undisturbed
mv out want.digest

echo "both starters"
submit "$GLN_SCRIPTS/train.sbatch" run.yaml "${long[@]}" --set run.dir=srun
wait_for 120 "under srun" gone $id
same srun "under srun"
export GLN_LAUNCH=mpirun
submit "$GLN_SCRIPTS/train.sbatch" run.yaml "${long[@]}" --set run.dir=mpirun
wait_for 120 "under mpirun" gone $id
same mpirun "under mpirun"
unset GLN_LAUNCH

echo "time limit"
# longer than any limit at first; how far it came decides how long it goes on, so that no speed of the machine matters
cp run.yaml limit.yaml
long=(--set train.decay_steps=3000 --set train.checkpoint_every=1000000)
sed -i 's/^  steps: .*/  steps: 1000000/' limit.yaml
submit --time=1 --signal=B:USR1@50 "$GLN_SCRIPTS/train.sbatch" limit.yaml "${long[@]}" --set run.dir=limit
wait_for 150 "time limit: stopped in time" grep -qs 'stopped in time' "$work/slurm-$id.out"
steps=$(($(steps limit) + 100))
sed -i "s/^  steps: .*/  steps: $steps/" limit.yaml
wait_for 100 "time limit: put back" restarted $id 2
wait_for 200 "time limit: to its end" eval "release $id; gone $id"
must_run 4 train limit.yaml "${long[@]}" --set run.dir=undisturbed-limit
same_lines undisturbed-limit/metrics.jsonl >want
must_run 0 ckpt digest undisturbed-limit
mv out want.digest
same limit "after the time limit"
echo "$(starts $id) starts, $steps steps"

long=(--set train.steps=1800 --set train.decay_steps=1800 --set train.checkpoint_every=100 --set run.keep_checkpoints=2)
must_run 4 train run.yaml "${long[@]}" --set run.dir=longer
same_lines longer/metrics.jsonl >want
must_run 0 ckpt digest longer
mv out want.digest

echo "a lost node"
submit "$GLN_SCRIPTS/train.sbatch" run.yaml "${long[@]}" --set run.dir=lost --set parallel.timeout_ms=4000
wait_for 60 "lost node: under way" at_least lost 300
lose-node 1
at_least lost 1800 && fail "lost node: it came too late"
wait_for 60 "lost node: named" grep -q 'gleaner: error' "$work/slurm-$id.out"
start-node 1
wait_for 120 "lost node: started again" restarted $id 2
grep -m 1 'gleaner: error' "$work/slurm-$id.out"
wait_for 200 "lost node: to its end" eval "release $id; gone $id"
same lost "after a lost node"

echo "an array"
printf -- '--set router.k=1 --set run.dir=one\n--set router.k=2 --set run.dir=two\n' >experiments.txt
submit --array=1-2 --output="$work/slurm-%A-%a.out" "$GLN_SCRIPTS/array.sbatch" run.yaml experiments.txt
wait_for 60 "array" gone $id
for run in one two; do
    [ "$(steps $run)" = 4 ] || fail "array: $run did not train"
done
submit "$GLN_SCRIPTS/train.sbatch" run.yaml --set train.lr=fast
wait_for 30 "bad input" gone $id
[ "$(starts $id)" -eq 1 ] || fail "bad input was tried again"
finish
