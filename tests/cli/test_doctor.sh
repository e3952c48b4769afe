#!/bin/bash
# gleaner doctor: what it finds here, as text and as JSON; hosts that do not answer, a job that does not come up.
. "$(dirname "$0")/common.sh"
unset OMPI_MCA_rmaps_base_oversubscribe OMPI_MCA_mpi_yield_when_idle OMPI_MCA_hwloc_base_binding_policy \
    OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM SLURM_JOB_ID # doctor must do without

says() { # WHAT PATTERN FILE
    grep -qE -- "$2" "$3" || {
        fail "$1: \"$2\" is not in the output"
        head -n 40 "$3"
    }
}
has() { # WHAT CHECK LEVELS [FOUND]: a finding of ./out
    says "$1" "\"event\":\"finding\",\"check\":\"$2\",.*\"level\":\"($3)\",\"found\":\"[^\"]*$4" out
}

must_run 0 doctor -n 2
says text '^ok +mpi job +2 ranks on 1 host said hello: ' out
says text '^[0-9]+ ok, [0-9]+ warnings?, 0 errors$' out
must_run 0 doctor -n 2 --json
for check in starter build "mpi library" cores binding memory /dev/shm "open files" "locked memory" "single copy" gpu network \
    cuda nccl "mpi job" versions "rank cores" clocks all-to-all; do
    has json "$check" 'ok|warning'
done
says json '"event":"end","ok":[0-9]+,"warnings":[0-9]+,"errors":0' out
[ -e /dev/nvidiactl ] || has "no GPU" cuda 'ok|warning' 'no driver'
for key in $(grep -oE '"[a-z_]+":' out | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done
grep -E '"level":"(warning|error)"' out | grep -q '"advice":""' && fail "a warning without advice"

# on more ranks than cores: a warning that says what to do
must_run 0 doctor -n $((2 * $(nproc))) --json
has oversubscribed "rank cores" warning
# few open files
(failures=0; ulimit -n 256 && must_run 0 doctor -n 2 --json && has files "open files" warning '256 at once' && exit $failures) ||
    failures=$((failures + 1))
# as the ranks of a job that somebody else started
. "$source_dir/launcher/mpi_env.sh"
must_run 2 doctor
says "under mpirun" '^ok +mpi job +2 ranks on 1 host' out

# a host that does not answer; the rest is looked at
printf '#!/bin/bash\n[ "$1" != far.example ]\n' >agent && chmod +x agent
printf 'localhost slots=2\nfar.example slots=2\n' >hosts
OMPI_MCA_plm_rsh_agent=$work/agent run 0 doctor --hosts hosts --json
[ "$status" -eq 1 ] || fail "unknown host: exit status $status"
says "unknown host" '"check":"host","host":"far.example","level":"error","found":"cannot be reached"' out
has "unknown host" "mpi job" ok '2 ranks on 1 host'
run 0 doctor --hosts nowhere
[ "$status" -eq 2 ] || fail "no hosts file: exit status $status"
says "no hosts file" 'cannot read nowhere' err

# an mpirun of another version, whose job does not come up
mkdir fake
cat >fake/mpirun <<'FAKE'
#!/bin/bash
[ "$1" = --version ] && echo "mpirun (Open MPI) 3.0.0" && exit 0
echo "no route to host" >&2
exit 1
FAKE
chmod +x fake/mpirun
PATH=$work/fake:$PATH run 0 doctor --json
[ "$status" -eq 1 ] || fail "no job: exit status $status"
has "no job" starter error 'mpirun is Open MPI 3.0.0, but gleaner is linked to'
has "no job" "mpi job" error 'did not come through \(status 1\): no route to host'
has "no job" cores 'ok|warning'
finish
