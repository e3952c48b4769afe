#!/bin/bash
# A virtual cluster: several hosts on one machine, and one MPI job across them.
#
# Every host is a network namespace with a host name, a /dev/shm and a network card (eth0) of its own. The cards hang
# on a bridge, which lives in one more namespace together with mpirun: nothing is added to the machine's own network, so
# that runs side by side do not meet, and removing the namespaces removes everything. Links are shaped by tc's token
# bucket in both directions. eth1, not shaped, carries what mpirun itself has to say; eth0 carries the job alone, and
# its counters of sent bytes, read before and after, are the bytes that the job put on the wire. They count whole
# frames; at an MTU of 9000 headers and acknowledgements are below 1 %.
set -u

usage() {
    cat <<'TEXT'
usage: cluster/virtual/run.sh [options] -- COMMAND...
Runs COMMAND as one MPI job on several virtual hosts of this machine, and prints what each host sent.

  --hosts N            hosts (2)
  --ranks-per-host R   ranks on each (2)
  --rate RATE          speed of a host's link in each direction, as tc writes it: 200mbit, 1gbit (not shaped)
  --json               print the bytes as JSON, one object a line (docs/json.md)
  --count FILE         write these lines to FILE too
  --shell              start a shell instead, in which plain `mpirun -n P COMMAND` runs on the hosts
  --help

Needs root, iproute2 and Open MPI. Exit status: the job's; 128 + n after signal n; 77 where this machine permits no
network namespaces; 2 for words it does not know. Nothing is left behind; what a killed run (kill -9) left is removed
by the next one.
TEXT
}
wrong() {
    echo "run.sh: error: $1 (see --help)" >&2
    exit 2
}
skip() {
    echo "run.sh: skipped: $1" >&2
    exit 77
}

hosts=2 ranks_per_host=2 rate="" json=false count="" shell=false
while [ $# -gt 0 ]; do
    case $1 in
    --hosts | --ranks-per-host | --rate | --count)
        [ $# -ge 2 ] || wrong "$1 needs a value"
        case $1 in
        --hosts) hosts=$2 ;;
        --ranks-per-host) ranks_per_host=$2 ;;
        --rate) rate=$2 ;;
        --count) count=$2 ;;
        esac
        shift
        ;;
    --json) json=true ;;
    --shell) shell=true ;;
    --help) usage && exit 0 ;;
    --) shift && break ;;
    *) wrong "expected an option or --, found $1" ;;
    esac
    shift
done
[[ $hosts =~ ^[1-9][0-9]?$ ]] || wrong "--hosts: expected a number in [1, 99], found $hosts"
[[ $ranks_per_host =~ ^[1-9][0-9]?[0-9]?$ ]] || wrong "--ranks-per-host: expected a number in [1, 999], found $ranks_per_host"
[[ -z $rate || $rate =~ ^[1-9][0-9]*[kmgt]?bit$ ]] || wrong "--rate: expected a rate like 1gbit, found $rate"
if $shell; then
    set -- "${SHELL:-bash}" "$@"
else
    [ $# -gt 0 ] || wrong "expected a command behind --"
    set -- mpirun -n $((hosts * ranks_per_host)) "$@"
fi

[ "$(id -u)" -eq 0 ] || skip "network namespaces need root"
for tool in ip nsenter unshare mpirun; do
    command -v $tool >/dev/null || skip "$tool is not installed (bash launcher/install.sh virtual)"
done

prefix=glv$$ # of namespaces: prefix-head, prefix-0, prefix-1, ...
work=""
job=""
signal=0

# Ends what runs in a namespace, and removes it with its links.
remove() { # NAMESPACE
    local wait pids
    for wait in TERM 1 1 1 1 1 1 1 1 1 KILL 1 1 1; do
        pids=$(ip netns pids "$1" 2>/dev/null) || break
        [ -n "$pids" ] || break
        if [ "$wait" = 1 ]; then sleep 0.1; else kill -"$wait" $pids 2>/dev/null; fi
    done
    ip netns del "$1" 2>/dev/null
}
remove_all() { # PREFIX
    local name
    for name in $(ip netns list | awk -v p="$1-" 'index($1, p) == 1 { print $1 }'); do remove "$name"; done
}
clean() {
    trap '' INT TERM HUP
    [ -z "$job" ] || kill -KILL "$job" 2>/dev/null
    remove_all "$prefix"
    [ -z "$work" ] || rm -rf "$work"
}
# mpirun ends its ranks when it gets TERM.
interrupt() { # NUMBER
    signal=$1
    [ -z "$job" ] || kill -TERM "$job" 2>/dev/null
}
stop_if_interrupted() { [ "$signal" -eq 0 ] || exit $((128 + signal)); }
trap clean EXIT
trap 'interrupt 1' HUP
trap 'interrupt 2' INT
trap 'interrupt 15' TERM

# Left by runs that were killed: the name says whose they are.
for name in $({ ip netns list && ls /tmp; } | sed -nE 's/^(glv[0-9]+)[-.].*/\1/p' | sort -u); do
    grep -qs run.sh "/proc/${name#glv}/cmdline" && continue
    remove_all "$name"
    rm -rf "/tmp/$name".*
done

must() { "$@" || skip "this machine does not permit it: $*"; }
work=$(mktemp -d "/tmp/$prefix.XXXXXX") || exit 1
chmod 755 "$work"
must ip netns add "$prefix-head"
in_head=(nsenter "--net=/run/netns/$prefix-head")
must ip -n "$prefix-head" link set lo up
# Card CARD of host I: a pair of ends, one in the host, the other on a bridge.
add_card() { # I CARD
    local end=e$2-$1 name=$prefix-$1
    must ip -n "$prefix-head" link add "$end" mtu 9000 gso_max_segs 1 type veth peer name "eth$2" mtu 9000 gso_max_segs 1 netns "$name"
    must ip -n "$prefix-head" link set "$end" master "net$2" up
    must ip -n "$name" addr add "10.77.$2.$(($1 + 1))/24" dev "eth$2"
    must ip -n "$name" link set "eth$2" up
}
for card in 0 1; do
    must ip -n "$prefix-head" link add "net$card" mtu 9000 type bridge
    must ip -n "$prefix-head" link set "net$card" up
done
must ip -n "$prefix-head" addr add 10.77.1.254/24 dev net1
for ((i = 0; i < hosts; i++)); do
    must ip netns add "$prefix-$i"
    must ip -n "$prefix-$i" link set lo up
    add_card $i 0
    add_card $i 1
    echo "10.77.1.$((i + 1)) slots=$ranks_per_host" >>"$work/hosts"
    stop_if_interrupted
done
bucket=(root tbf rate "$rate" burst 256kb limit 16mb)
for ((i = 0; i < hosts && ${#rate}; i++)); do
    tc -n "$prefix-$i" qdisc add dev eth0 "${bucket[@]}" && tc -n "$prefix-head" qdisc add dev e0-$i "${bucket[@]}" && continue
    echo "run.sh: the links are not shaped: tc or its token bucket (tbf) is missing" >&2
    rate=""
done

# How mpirun starts its daemon on a host: inside the namespace, with the host's name and an own /dev/shm.
cat >"$work/agent.sh" <<AGENT
#!/bin/bash
host=\$((\${1##*.} - 1))
shift
exec nsenter --net=/run/netns/$prefix-\$host unshare --uts --mount bash -c "
    hostname node\$host
    mount -t tmpfs tmpfs /dev/shm
    \$*"
AGENT
chmod 755 "$work/agent.sh"
. "$(dirname "${BASH_SOURCE[0]}")/../../launcher/mpi_env.sh"
export OMPI_MCA_plm_rsh_agent=$work/agent.sh OMPI_MCA_orte_default_hostfile=$work/hosts
export OMPI_MCA_orte_tmpdir_base=$work OMPI_MCA_orte_leave_session_attached=1
export OMPI_MCA_rmaps_base_mapping_policy=slot OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=tcp,vader,self
export OMPI_MCA_btl_tcp_if_include=10.77.0.0/24 OMPI_MCA_oob_tcp_if_include=10.77.1.0/24

sent() { # HOST: bytes and packets that it has sent through eth0
    nsenter "--net=/run/netns/$prefix-$1" awk '/eth0:/ { sub(/.*:/, ""); print $9, $10 }' /proc/net/dev
}
for ((i = 0; i < hosts; i++)); do
    read -r "bytes_before[i]" "packets_before[i]" < <(sent $i)
done
stop_if_interrupted
start=$(date +%s.%N)
"${in_head[@]}" "$@" <&0 &
job=$!
[ "$signal" -eq 0 ] || interrupt "$signal" # it came before there was a job to end
wait "$job"
status=$?
for ((tenths = 0; signal && tenths < 50; tenths++)); do # an interrupted mpirun has 5 s to end its ranks
    kill -0 "$job" 2>/dev/null || break
    sleep 0.1
done
seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.3f", b - a }')
stop_if_interrupted
job=""

figures() {
    local total_bytes=0 total_packets=0 bytes packets i
    for ((i = 0; i < hosts; i++)); do
        read -r bytes packets < <(sent $i)
        bytes=$((bytes - bytes_before[i])) packets=$((packets - packets_before[i]))
        total_bytes=$((total_bytes + bytes)) total_packets=$((total_packets + packets))
        printf '{"event":"host","host":"node%d","bytes":%d,"packets":%d}\n' $i $bytes $packets
    done
    printf '{"event":"wire","hosts":%d,"ranks_per_host":%d,"rate":%s,"bytes":%d,"packets":%d,"seconds":%s,"status":%d}\n' \
        "$hosts" "$ranks_per_host" "$([ -n "$rate" ] && echo "\"$rate\"" || echo null)" \
        $total_bytes $total_packets "$seconds" $status
}
figures >"$work/figures"
if $json; then
    cat "$work/figures"
else
    sed -E 's/.*"host":"([^"]*)","bytes":([0-9]*),"packets":([0-9]*).*/\1: \2 bytes sent in \3 packets/
        s/.*"hosts":([0-9]*),.*"rate":"?([^",]*)"?,"bytes":([0-9]*),"packets":([0-9]*),"seconds":([0-9.]*).*/\1 hosts: \3 bytes on the wire in \4 packets, \5 s (rate \2)/
        s/\(rate null\)/(not shaped)/' "$work/figures"
fi
[ -z "$count" ] || cp "$work/figures" "$count" || status=1
exit $status
