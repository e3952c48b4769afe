#!/bin/bash
# A rank is killed or stopped on one of several virtual hosts: at the start, in a step, while a checkpoint is written, in
# an evaluation; on the first host and on another. end_ranks.py says what is checked; it prints the times as JSON.
# Skipped where the machine permits no network namespaces.
gleaner=$1
source_dir=$2
failures=0
trial() { # HOSTS RANKS_PER_HOST SIGNAL RANK MOMENT
    timeout -k 30 150 python3 -B "$source_dir/tests/cluster/end_ranks.py" "$gleaner" "$source_dir" trial "$@"
    case $? in
    0) ;;
    77) exit 77 ;;
    *) failures=$((failures + 1)) ;;
    esac
}
command -v python3 >/dev/null || { echo "skipped: python3 is not installed" && exit 77; }
trial 2 2 STOP 3 step
trial 2 2 KILL 0 step
trial 2 2 STOP 1 checkpoint
trial 2 2 KILL 2 checkpoint
trial 2 2 STOP 2 evaluation
trial 2 2 KILL 1 evaluation
trial 2 2 STOP 2 start
trial 2 2 KILL 0 start
trial 4 1 STOP 0 step
trial 4 1 KILL 3 step
trial 2 1 KILL 0 checkpoint
trial 2 1 STOP 1 evaluation
[ $failures -eq 0 ] || { echo "$failures trials failed" && exit 1; }
echo ok
