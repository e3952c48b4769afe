#!/usr/bin/env python3
"""Kills (SIGKILL) or stops (SIGSTOP) one rank of a training and looks how the job ends: the right rank and host are
named with the operation, in time, with a status that is not zero; no process, shared memory or session folder is left.

    end_ranks.py GLEANER SOURCE_DIR trial HOSTS RANKS_PER_HOST SIGNAL RANK MOMENT
    end_ranks.py GLEANER SOURCE_DIR soak TRIALS [SEED [HOSTS_MIN]]

MOMENT: start (the processes are there), step, checkpoint, evaluation, each known by what the run has written; or a
number: seconds after the processes are there. `soak` draws everything at random. One JSON line a trial; exit status 1
when one went wrong, 77 where virtual hosts are not permitted. One host is this machine itself."""
import json, os, random, re, shutil, signal, socket, subprocess, sys, tempfile, time

TIMEOUT_S = 2.0
START_S = 10.0  # what the launcher gives MPI to start at least
PROMISE_S = 2.0
SLACK = 3  # a loaded machine: checked is three times the promise, printed is the time

RUN = """model: {hidden: 16, layers: 2, heads: 2, kv_heads: 1, experts: 8, expert_hidden: 24, sequence: 16}
router: {k: 1, fill: true, rectify: true}
parallel: {domains: 4, threads: 1, timeout_ms: 2000}
train: {steps: 100000000, batch: 8, lr: 1e-2, warmup_steps: 2, decay_steps: 20, log_every: 1, checkpoint_every: %d}
eval: {every: %d}
data: {train: train.txt, valid: "%s"}
run: {dir: run}
"""
# Runs beside mpirun, before the hosts are removed: what is left on them?
INNER = """#!/bin/bash
mpirun -n "$1" "${@:2}"
echo $? >status
for _ in {1..30}; do
    left=$(for name in $(ip netns list | awk -v p="glv$PPID-" 'index($1, p) == 1 && $1 !~ /head$/ { print $1 }'); do
        ip netns pids "$name"
    done)
    [ -n "$left" ] || break
    sleep 0.1
done
echo "$left" >left
find "$OMPI_MCA_orte_tmpdir_base" -mindepth 1 -path '*ompi*' ! -type d >folders
"""


def read(path, binary=False):
    try:
        with open(path, "rb") as file:
            data = file.read()
        return data if binary else data.decode(errors="replace")
    except OSError:
        return b"" if binary else ""


def lives(pid):
    text = read("/proc/%d/stat" % pid)
    return bool(text) and text[text.rindex(")") + 2] not in "ZX"


class Trial:
    def __init__(self, gleaner, source, hosts, each, name, victim, moment):
        self.gleaner, self.source, self.hosts, self.each = gleaner, source, hosts, each
        self.ranks, self.signal, self.victim, self.moment = hosts * each, name, victim, moment
        self.errors, self.pids = [], {}
        self.work = tempfile.mkdtemp(prefix="gln-end.")

    def fail(self, text):
        self.errors.append(text)

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self):
        lines = "".join("%d green bottles hanging on the wall\n" % i for i in range(200))
        for name, text in (("train.txt", lines), ("valid.txt", lines), ("inner.sh", INNER)):
            with open(self.path(name), "w") as file:
                file.write(text)
        with open(self.path("run.yaml"), "w") as file:
            file.write(RUN % (self.moment == "checkpoint", self.moment == "evaluation",
                              "valid.txt" if self.moment == "evaluation" else ""))
        env = dict(os.environ, SHELL="/bin/bash", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                   OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_mpi_yield_when_idle="1",
                   OMPI_MCA_hwloc_base_binding_policy="none")
        command = ["bash", "inner.sh", str(self.ranks), self.gleaner, "train", "run.yaml"]
        if self.hosts > 1:
            command = [self.source + "/cluster/virtual/run.sh", "--hosts", str(self.hosts), "--ranks-per-host",
                       str(self.each), "--shell", "--"] + command[1:]
        else:
            env["OMPI_MCA_orte_tmpdir_base"] = self.path("sessions")
            os.mkdir(self.path("sessions"))
        self.job = subprocess.Popen(command, cwd=self.work, env=env, stdin=subprocess.DEVNULL,
                                    stdout=open(self.path("out"), "w"), stderr=open(self.path("err"), "w"))

    def find_ranks(self):
        """By the folder they run in: other jobs on this machine are none of our business."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink("/proc/%s/cwd" % pid) != self.work:
                    continue
            except OSError:
                continue
            if not read("/proc/%s/cmdline" % pid).startswith(self.gleaner):
                continue
            found = re.search(rb"(?:^|\0)OMPI_COMM_WORLD_RANK=(\d+)", read("/proc/%s/environ" % pid, True))
            parent = re.search(r"\) . (\d+)", read("/proc/%s/stat" % pid))
            # a rank's keeper is its child (launcher/keeper.h)
            if found and parent and not read("/proc/%s/cmdline" % parent[1]).startswith(self.gleaner):
                self.pids[int(found[1])] = int(pid)
        return len(self.pids) == self.ranks

    def has_come(self):
        if self.moment == "checkpoint":
            try:
                return len(os.listdir(self.path("run/checkpoints"))) > 0
            except OSError:
                return False
        return read(self.path("run/metrics.jsonl")).count("\n") >= 2

    def wait(self, seconds, what, interval=0.005):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.job.poll() is None:
            if what():
                return True
            time.sleep(interval)
        return False

    def shared_files(self):
        names = set()
        for pid in self.pids.values():
            names.update(re.findall(r"(?:/dev/shm|/tmp)/\S+", read("/proc/%d/maps" % pid)))
        return [n for n in names if "ompi" in n or "vader" in n or "/dev/shm" in n]

    def strike(self):
        ready = self.wait(60, self.find_ranks)
        if ready and isinstance(self.moment, float):
            time.sleep(self.moment)
        elif ready and self.moment != "start":
            ready = self.wait(60, self.has_come)
        if not ready:
            self.job.poll()
            return False
        shared = self.shared_files()
        begin = time.monotonic()
        os.kill(self.pids[self.victim], getattr(signal, "SIG" + self.signal))
        if not self.wait(SLACK * (START_S + PROMISE_S), lambda: os.path.exists(self.path("status")), 0.01) and not \
                os.path.exists(self.path("status")):
            self.fail("the job did not end")
        self.seconds = time.monotonic() - begin
        self.living = [p for p in self.pids.values() if lives(p)]
        for _ in range(100):  # the kernel is still tearing them down, perhaps
            self.living = [p for p in self.living if lives(p)]
            if not self.living:
                break
            time.sleep(0.02)
        try:
            self.job.wait(60)
        except subprocess.TimeoutExpired:
            self.fail("run.sh did not end")
            self.job.terminate()
            self.job.wait()
        if self.hosts == 1:
            self.living += [n for n in shared if os.path.exists(n)]
        return True

    def check(self):
        err, host = read(self.path("err")), socket.gethostname() if self.hosts == 1 else "node%d" % (
            self.victim // self.each)
        said = [l for l in err.splitlines() if l.startswith("gleaner: error:")]
        named = re.findall(r"rank (\d+) \(host ([^,]*), pid (\d+), ([^)]*)\)", "\n".join(said))
        status, left, folders = (read(self.path(n)).strip() for n in ("status", "left", "folders"))
        right = (str(self.victim), host, str(self.pids[self.victim]))
        operation = re.search(r"; operation ([^,;\n]*)(?:, layer (\d+))?", "\n".join(said))
        starting = bool(operation) and operation[1] == "start of MPI"
        if self.signal == "KILL" and not named and (isinstance(self.moment, float) or self.moment == "start"):
            # it had no keeper yet, perhaps: then Open MPI's daemon alone names it
            if not re.search(r"process rank %d with PID (%d|0) " % (self.victim, self.pids[self.victim]), err):
                self.fail("rank %d is not named" % self.victim)
        else:
            # stopped before its main(), alone on its host: nobody can see it (comm/README.md)
            unseen = starting and self.hosts > 1 and self.each == 1
            if right not in [n[:3] for n in named] and not unseen:
                self.fail("rank %d on %s is not named" % (self.victim, host))
            if not operation:
                self.fail("no operation is named")
            if self.signal == "KILL" and len(said) > 1:
                self.fail("%d ranks speak" % len(said))
        if any(n[:3] != right for n in named):
            self.fail("another rank is named")
        if status in ("", "0"):
            self.fail("exit status %s" % (status or "missing"))
        limit = (START_S if starting or self.moment == "start" else TIMEOUT_S) + PROMISE_S
        if self.seconds > SLACK * limit:
            self.fail("ended after %.1f s" % self.seconds)
        for what in (left, folders, " ".join(map(str, self.living))):
            if what:
                self.fail("left over: " + what.replace("\n", " "))
        return {"names": [" ".join(n) for n in named], "operation": operation[1] if operation else None,
                "layer": int(operation[2]) if operation and operation[2] else None, "limit_s": limit,
                "in_time": self.seconds <= limit}

    def run(self):
        self.start()
        line = {"hosts": self.hosts, "ranks_per_host": self.each, "signal": self.signal, "rank": self.victim,
                "moment": self.moment}
        try:
            if self.strike():
                line["seconds"] = round(self.seconds, 2)
                line.update(self.check())
            else:
                self.fail("the job did not come so far, exit status %s" % self.job.returncode)
        finally:
            if self.job.poll() is None:
                self.job.terminate()
                self.job.wait()
            for pid in self.pids.values():
                try:
                    if lives(pid) and os.readlink("/proc/%d/cwd" % pid) == self.work:
                        os.kill(pid, signal.SIGKILL)
                except OSError:  # gone meanwhile
                    pass
        line["ok"] = not self.errors
        if self.errors:
            line["errors"], line["stderr"] = self.errors, read(self.path("err"))[:3000]
        shutil.rmtree(self.work, ignore_errors=True)
        return line


def hosts_permitted(source):
    done = subprocess.run([source + "/cluster/virtual/run.sh", "--hosts", "2", "--ranks-per-host", "1", "--", "true"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 77:
        print(done.stderr.strip())
    return done.returncode != 77


def main():
    gleaner, source, words = os.path.realpath(sys.argv[1]), os.path.realpath(sys.argv[2]), sys.argv[3:]
    if words[0] == "trial":
        if int(words[1]) > 1 and not hosts_permitted(source):
            return 77
        moment = float(words[5]) if re.fullmatch(r"[\d.]+", words[5]) else words[5]
        line = Trial(gleaner, source, int(words[1]), int(words[2]), words[3], int(words[4]), moment).run()
        print(json.dumps(line), flush=True)
        return 0 if line["ok"] else 1
    first = int(words[2]) if len(words) > 2 else int(time.time()) % 100000
    shapes, wrong = [(1, 2), (1, 4)], 0
    if hosts_permitted(source):
        shapes += [(2, 1), (2, 2), (4, 1)]
    shapes = [s for s in shapes if s[0] >= (int(words[3]) if len(words) > 3 else 1)]
    if not shapes:
        return 77
    for seed in range(first, first + int(words[1])):
        draw = random.Random(seed)
        hosts, each = draw.choice(shapes)
        trial = Trial(gleaner, source, hosts, each, draw.choice(["KILL", "STOP"]), draw.randrange(hosts * each),
                      round(draw.uniform(0, 2.5), 3))
        line = dict(seed=seed, **trial.run())
        print(json.dumps(line), flush=True)
        wrong += not line["ok"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
