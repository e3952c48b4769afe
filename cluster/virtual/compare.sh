#!/bin/bash
# What the exchange costs between nodes, measured on virtual hosts with a slow link. First the flat and the hierarchical
# form on the same random plans, in turn. Then training: top-1 with fill-in and rectification against top-1 that drops
# and against top-2, and top-2 with rows in bf16. Bytes are the network cards' own counts, ledgers those of metrics.jsonl, times of the first table
# those between two barriers. The bound is the time that the link alone needs for a host's bytes.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

usage() {
    cat <<'TEXT'
usage: cluster/virtual/compare.sh [options]
  --build DIR       build folder with gleaner and tests/wire_exchange (build)
  --rate RATE       speed of a host's link (200mbit)
  --forms "F ..."   forms to compare ("flat hierarchical")
  --rounds N        rounds of the forms, in turn (3)
  --steps N         training steps (20)
Takes about a minute. Exit status 77 where this machine permits no virtual hosts.
TEXT
}
build=build rate=200mbit forms="flat hierarchical" rounds=3 steps=20
while [ $# -gt 0 ]; do
    case $1 in
    --help) usage && exit 0 ;;
    --build | --rate | --forms | --rounds | --steps) [ $# -ge 2 ] && printf -v "${1#--}" %s "$2" && shift ;;
    *) usage >&2 && exit 2 ;;
    esac
    shift
done
[[ $rate =~ ^([0-9]+)([kmg]?)bit$ ]] || { usage >&2 && exit 2; }
case ${BASH_REMATCH[2]} in k) unit=1e3 ;; m) unit=1e6 ;; g) unit=1e9 ;; *) unit=1 ;; esac
rate_bytes=$(awk -v n="${BASH_REMATCH[1]}" -v u=$unit 'BEGIN { print n * u / 8 }') # a second
for program in gleaner tests/wire_exchange; do
    [ -x "$build/$program" ] || { echo "compare.sh: error: $build/$program is missing: build it, or name the folder with --build" >&2 && exit 1; }
done
build=$(realpath "$build")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# on_hosts RANKS_PER_HOST COMMAND...: on 2 hosts, into $work/out
on_hosts() {
    bash cluster/virtual/run.sh --hosts 2 --ranks-per-host "$1" --rate "$rate" --json -- "${@:2}" >"$work/out" 2>"$work/err" && return
    local status=$?
    cat "$work/err" >&2
    [ $status -eq 77 ] || echo "compare.sh: error: ${*:2}: exit status $status" >&2
    exit $status
}
figure() { sed -nE "s/.*\"$1\":\"?([^\",}]*).*/\1/p" "$work/out" | tail -n 1; } # KEY: its last value
middle() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

each=8 # steps of one job
echo "exchange: 2 hosts x 4 ranks, $rate, k = 8 of 64 experts, 256 tokens of 4 KiB a rank; a step is plan, dispatch, combine"
for ((round = 0; round < rounds; round++)); do
    for form in $forms; do
        on_hosts 4 "$build/tests/wire_exchange" form "$form" k 8 tokens 256 hidden 1024 steps $each
        echo "$form $(figure median_seconds) $(figure min_seconds) $(figure bytes) $(figure remote_bytes) $(figure dispatch_rows) $(figure pairs) $(figure digest)" \
            >>"$work/forms"
    done
done
printf '%-13s %12s %12s %12s %10s %10s %10s %8s\n' form "MB on wire" "MB in rows" "rows/pair" "median s" "min s" "bound s" "of bound"
for form in $forms; do
    median=$(awk -v f="$form" '$1 == f { print $2 }' "$work/forms" | middle)
    awk -v f="$form" -v m="$median" -v n=$each -v rate="$rate_bytes" '
        $1 == f { if (!least || $3 < least) least = $3; wire = $4; rows = $5; pairs = $6 / $7 }
        END { bound = wire / 2 / n / rate
              printf "%-13s %12.2f %12.2f %12.3f %10.4f %10.4f %10.4f %8.2f\n",
                     f, wire / n / 1e6, rows / n / 1e6, pairs, m, least, bound, bound / m }' "$work/forms"
done
awk '{ if (!(($1) in wire)) order[++n] = $1; wire[$1] = $4; digest[$8] = 1 }
    END { for (i = 2; i <= n; i++) printf "%s / %s: %.3f of the bytes on the wire\n", order[i], order[1], wire[order[i]] / wire[order[1]]
          same = 0; for (d in digest) same++
          print same == 1 ? "all forms: the same sums, bit for bit" : "THE FORMS DIFFER IN THEIR SUMS" }' "$work/forms"

seq 1 4000 | awk '{ print "line " $1 " of " $1 * $1 % 977 ": " ($1 % 7 ? "green bottles" : "bread and butter") }' >"$work/text"
cat >"$work/run.yaml" <<YAML
model: {hidden: 128, layers: 2, heads: 4, kv_heads: 2, experts: 8, expert_hidden: 128, sequence: 64}
router: {capacity_factor: 1.0}
parallel: {domains: 4, threads: 1}
train: {steps: $steps, batch: 32, lr: 4e-3, warmup_steps: 5, decay_steps: 1000, log_every: 1}
data: {train: $work/text}
YAML
echo
echo "training: 2 hosts x 2 ranks, $rate, 4 domains, 8 experts, 2 layers of hidden size 128, 2048 tokens a step, capacity factor 1;"
echo "MB in rows: dispatch and combine, forward and backward; MB on wire: gradients too; all of one step"
printf '%-22s %-13s %11s %11s %9s %9s %10s %9s %8s\n' routing form "MB in rows" "MB on wire" "served %" "dropped %" "rows/token" "step s" "loss"
train() { # NAME FORM KEYS...
    local name=$1 form=$2 sets=() key
    for key in "${@:3}" "parallel.exchange=$form" "run.dir=$work/run"; do sets+=(--set "$key"); done
    rm -rf "$work/run"
    on_hosts 2 "$build/gleaner" train "$work/run.yaml" "${sets[@]}"
    local seconds
    seconds=$(sed -nE 's/.*"seconds":([0-9.e+-]*),"tokens_per.*/\1/p' "$work/run/metrics.jsonl" | middle)
    awk -v name="$name" -v form="$form" -v wire="$(figure bytes)" -v seconds="$seconds" -v k="${name:4:1}" '
        function value(key) { return match($0, "\"" key "\":[-0-9.e+]+") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) : 0 }
        { tokens += value("choices") / k; unserved += value("unserved"); choices += value("choices"); dropped += value("dropped")
          rows += value("routed") + value("filled") + value("rect_rows"); bytes += value("remote_bytes"); loss = value("loss") }
        END { printf "%-22s %-13s %11.3f %11.3f %9.2f %9.2f %10.3f %9.4f %8.4f\n", name, form, bytes / NR / 1e6, wire / NR / 1e6,
                     100 * (1 - unserved / tokens), 100 * dropped / choices, rows / tokens, seconds, loss }' "$work/run/metrics.jsonl"
}
for form in $forms; do
    train "top-1, drops" "$form" router.k=1 router.fill=false router.rectify=false
    train "top-1, fill, rectify" "$form" router.k=1 router.fill=true router.rectify=true
    train "top-2, drops" "$form" router.k=2 router.fill=false router.rectify=false
    train "top-2, bf16 wire" "$form" router.k=2 router.fill=false router.rectify=false parallel.wire=bf16
done
