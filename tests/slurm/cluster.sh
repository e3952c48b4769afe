#!/bin/bash
# A Slurm of its own on one machine: munged, slurmctld and two slurmd on virtual hosts (network namespaces with host names), and a
# script run beside slurmctld.
#
#     bash tests/slurm/cluster.sh SCRIPT [ARGUMENTS...]
#
# The script finds sbatch, squeue and scontrol working (SLURM_CONF), $GLN_SLURM the folder with all files of this cluster, and two commands
# in $PATH: `lose-node N` kills slurmd of node N and all its processes, `start-node N` starts it. Exit status: the script's; 77
# with a reason where this machine cannot do it. Nothing is left behind.
set -u
skip() {
    echo "skipped: $1" && exit 77
}
[ "$(id -u)" -eq 0 ] || skip "network namespaces and slurmd need root"
for tool in ip nsenter unshare munged slurmctld slurmd sbatch mpirun; do
    PATH=$PATH:/usr/sbin command -v $tool >/dev/null || skip "$tool is not installed (bash launcher/install.sh slurm)"
done
PATH=$PATH:/usr/sbin
prefix=gls$$
work=$(mktemp -d /tmp/$prefix.XXXXXX) || exit 1
export GLN_SLURM=$work SLURM_CONF=$work/slurm.conf
mkdir -m 700 "$work/munge" && mkdir "$work/bin" "$work/state" && chmod 755 "$work"

remove() { # NAMESPACE
    local pids try
    for try in 1 2 3 4 5 6 7 8; do
        pids=$(ip netns pids "$1" 2>/dev/null)
        [ -n "$pids" ] || break
        kill -KILL $pids 2>/dev/null
        sleep 0.1
    done
    ip netns del "$1" 2>/dev/null
}
clean() {
    trap '' INT TERM HUP
    for host in 0 1 head; do remove $prefix-$host; done
    [ ! -e "$work/munge/pid" ] || kill "$(cat "$work/munge/pid")" 2>/dev/null
    for try in 1 2 3 4 5; do # munged writes its seed as it leaves
        rm -rf "$work" 2>/dev/null && break
        sleep 0.2
    done
}
trap clean EXIT
trap 'exit 130' INT TERM HUP

must() { "$@" || skip "this machine does not permit it: $*"; }
must ip netns add $prefix-head
must ip -n $prefix-head link set lo up
must ip -n $prefix-head link add net0 type bridge
must ip -n $prefix-head link set net0 up
must ip -n $prefix-head addr add 10.78.0.254/24 dev net0
for i in 0 1; do
    must ip netns add $prefix-$i
    must ip -n $prefix-$i link set lo up
    must ip -n $prefix-head link add e$i type veth peer name eth0 netns $prefix-$i
    must ip -n $prefix-head link set e$i master net0 up
    must ip -n $prefix-$i addr add 10.78.0.$((i + 1))/24 dev eth0
    must ip -n $prefix-$i link set eth0 up
done

dd if=/dev/urandom of="$work/munge/key" bs=128 count=1 2>/dev/null
chmod 600 "$work/munge/key"
chown -R munge: "$work/munge"
chmod 711 "$work/munge" # others reach the socket
setpriv --reuid=munge --regid=munge --clear-groups munged --socket="$work/munge/socket" --key-file="$work/munge/key" \
    --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed" || skip "munged does not start"

cat >"$work/slurm.conf" <<CONF
ClusterName=virtual
SlurmctldHost=head(10.78.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=5
KillWait=5
SchedulerParameters=sched_interval=5,batch_sched_delay=0
SchedulerType=sched/backfill
JobRequeue=1
RequeueExit=
SlurmdParameters=config_overrides
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool.%n
TmpFS=$work/tmp.%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.%n.log
NodeName=node0 NodeHostname=node0 NodeAddr=10.78.0.1 CPUs=4 RealMemory=2000
NodeName=node1 NodeHostname=node1 NodeAddr=10.78.0.2 CPUs=4 RealMemory=2000
PartitionName=cpu Nodes=node0,node1 Default=YES MaxTime=INFINITE State=UP
CONF
sed -i '/^RequeueExit=$/d' "$work/slurm.conf"
mkdir "$work/tmp.node0" "$work/tmp.node1" "$work/spool.node0" "$work/spool.node1"

cat >"$work/bin/start-node" <<NODE
#!/bin/bash
# what a machine would lose when it starts anew: sockets and folders of PMIx of steps that were killed
rm -rf "$work/spool.node\$1"/*pmix* "$work/tmp.node\$1"/*
setsid nsenter --net=/run/netns/$prefix-\$1 unshare --uts --mount bash -c "
    hostname node\$1
    mount -t tmpfs tmpfs /dev/shm
    exec slurmd -D -N node\$1" >"$work/slurmd.out.\$1" 2>&1 </dev/null &
NODE
cat >"$work/bin/lose-node" <<NODE
#!/bin/bash
for try in 1 2 3; do
    pids=\$(ip netns pids $prefix-\$1)
    [ -n "\$pids" ] || break
    kill -KILL \$pids 2>/dev/null
    sleep 0.1
done
true
NODE
chmod 755 "$work"/bin/*
export PATH=$work/bin:$PATH
in_head=(nsenter --net=/run/netns/$prefix-head unshare --uts bash -c 'hostname head; exec "$@"' --)
"${in_head[@]}" setsid slurmctld -D >"$work/slurmctld.out" 2>&1 </dev/null &
disown
start-node 0
start-node 1
for ((tenths = 0; ; tenths++)); do
    [ "$("${in_head[@]}" sinfo -h -t idle -o %D 2>/dev/null)" = 2 ] && break
    [ $tenths -lt 300 ] || {
        tail -n 5 "$work"/slurmctld.* "$work"/slurmd.*
        skip "Slurm does not come up in 30 s (see above)"
    }
    sleep 0.1
done
"${in_head[@]}" "$@" &
wait $!
