#!/bin/bash
# examples/torch over the installed library: outputs and gradients are torch's on 1, 2 and 4 ranks, the example's loss falls. Skipped
# without torch; where transformers is installed, its own block is the other side too.
for python in python3 /usr/bin/python3 ""; do # Debian's package belongs to the second, whatever else is in the way
    [ -z "$python" ] && echo "skipped: torch is not installed (apt-get install python3-torch)" && exit 77
    $python -c 'import torch' 2>/dev/null && break
done
. "$(dirname "$0")/common.sh" "$@"
export GLEANER_LIBRARY=$so PYTHONPATH=$source_dir/examples/torch PYTHONDONTWRITEBYTECODE=1
# check P WHAT ARGUMENTS...
check() {
    timeout -k 5 200 mpirun -n "$1" $python "${@:3}" >"$work/out" 2>&1 || {
        tail -n 20 "$work/out"
        fail "$2 on $1 ranks"
    }
}
sides=("")
$python -c 'from transformers.models.mixtral import modeling_mixtral' 2>/dev/null && sides+=(--transformers)
[ ${#sides[@]} -eq 2 ] || echo "transformers is not installed: its block is not tested here"
for side in "${sides[@]}"; do
    for ranks in 1 2 4; do
        check $ranks "the block $side" "$source_dir/tests/package/torch_block.py" $side
        [ "$(grep -c '^ok$' "$work/out")" -eq 1 ] || fail "the block $side on $ranks ranks does not end with ok"
    done
    cat "$work/out"
done
check 2 "training" "$source_dir/examples/torch/train.py" --file "$source_dir/docs/library.md"
tail -n 1 "$work/out"
finish
