#!/bin/bash
# gleaner launch and doctor on several virtual hosts: a host that is lost in the middle of a training costs ranks, not
# bits; a host on a slow link is named. Skipped where the machine permits no network namespaces.
. "$(dirname "$0")/../cli/common.sh"
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

# on_hosts HOSTS RATE: the script on stdin in a shell of the cluster; $name-I is the namespace of host I.
on_hosts() {
    {
        echo 'name=$(basename "$(dirname "$OMPI_MCA_plm_rsh_agent")"); name=${name%.*}'
        cat
    } | timeout -k 20 120 "$cluster" --hosts "$1" --ranks-per-host 1 --rate "$2" --shell >out 2>err
}
training="run.yaml --set parallel.domains=6 --set model.experts=12 --set train.batch=12 --set train.steps=600
    --set train.checkpoint_every=50 --set train.log_every=50 --set data.valid= --set parallel.timeout_ms=3000"
must_run 2 train $training --set run.dir=calm
must_run 0 ckpt digest calm
mv out calm.digest

on_hosts 3 1gbit <<SHELL
agent=\$OMPI_MCA_plm_rsh_agent
printf '#!/bin/bash\n[ -e %s/gone ] && [ "\$1" = 10.77.1.3 ] && exit 255\nexec %s "\$@"\n' "$work" "\$agent" >agent
chmod +x agent
export OMPI_MCA_plm_rsh_agent=$work/agent
SHELL="\$SHELL" $gleaner launch --hosts "\$OMPI_MCA_orte_default_hostfile" $(echo $training) --set run.dir=lost >lost.out 2>lost.err </dev/null &
job=\$!
for _ in \$(seq 1 600); do
    compgen -G "lost/checkpoints/step-*0" >/dev/null && break
    sleep 0.05
done
touch gone
kill -KILL \$(ip netns pids "\$name-2")
wait \$job
echo \$? >lost.status
SHELL
[ "$(cat lost.status)" = 0 ] || fail "lost host: exit status $(cat lost.status): $(tail -n 5 lost.err)"
grep -q 'cannot be reached: 10.77.1.3' lost/launch.log || fail "lost host: not named: $(cat lost/launch.log)"
grep -q '2 ranks instead of 3' lost/launch.log || fail "lost host: $(cat lost/launch.log)"
grep -q 'going on from step' lost.out || fail "lost host: began anew"
must_run 0 ckpt digest lost
cmp -s out calm.digest || fail "lost host: another digest"

on_hosts 3 1gbit <<SHELL
$gleaner doctor >even </dev/null
tc -n "\$name-1" qdisc del dev eth0 root
tc -n "\$name-1" qdisc add dev eth0 root tbf rate 50mbit burst 32kb limit 1mb
$gleaner doctor --json >uneven </dev/null
SHELL
grep -qE '^ok +mpi job +3 ranks on 3 hosts said hello: node0, node1, node2$' even || fail "doctor: no hello: $(cat even)"
grep -qE '^(ok|warning) +slow host ' even || fail "doctor: no exchange of hosts"
grep -q '"check":"slow host","host":"node1","level":"warning"' uneven || fail "doctor: the slow host is not named: $(cat uneven)"
finish
