"""A Slurm cluster of one host, for as long as a command runs.

``python tests/slurm/cluster.py COMMAND…`` starts munge, slurmctld and slurmd on this host, runs the command with
``SLURM_CONF`` set, and ends them. Where the programs are missing it installs Debian's packages slurmctld, slurmd,
slurm-client and munge, for which it has to be root. Nothing of the host's own configuration is read or changed: keys,
states, spools and logs lie in a temporary folder, which ``SAIBENCH_SLURM`` names for the command.

The cluster has two partitions on the one node: jobs in ``high`` pre-empt those in ``low``, which are queued again.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")
CPUS = 2
SECONDS_TO_START = 60

# cons_tres gives out single processors; linuxproc and none need no control groups, which containers may lack; a job
# that is queued again waits until its credential has expired, two minutes unless cred_expire says less.
CONFIGURATION = """
ClusterName=saibench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={port}
SlurmdPort={port2}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def install():
    """Install what is missing."""
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"Slurm is not here: as root, on Debian, run: apt-get install {' '.join(PACKAGES)}")
    subprocess.run(["apt-get", "update", "-q"], check=True)
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


@contextlib.contextmanager
def running(folder):
    """Start the three daemons in a folder, wait until the node takes jobs, and end them at last."""
    host = socket.gethostname().partition(".")[0]
    key, configuration = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    port, port2 = _free_ports(2)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, port=port, port2=port2, cpus=CPUS))
    environment = {**os.environ, "SLURM_CONF": str(configuration), "SAIBENCH_SLURM": str(folder)}
    munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    munge |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    daemons = []
    try:
        for command in (
            ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in munge.items())],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            log = (folder / f"{command[0]}.out").open("wb")
            daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        _wait_for_node(environment, daemons)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for_node(environment, daemons):
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        dead = [daemon.args[0] for daemon in daemons if daemon.poll() is not None]
        state = subprocess.run(
            ["sinfo", "--noheader", "--partition=low", "--format=%T"], env=environment, capture_output=True, text=True
        ).stdout.strip()
        if state == "idle":
            return
        if dead:
            sys.exit(f"{dead[0]} ended: see {environment['SAIBENCH_SLURM']}/{dead[0]}.out and .log")
        time.sleep(0.5)
    sys.exit(f"the node did not become idle (it is {state!r}): see the logs in {environment['SAIBENCH_SLURM']}")


def main():
    """Run a command on a cluster of its own."""
    if os.geteuid() != 0:
        sys.exit("root has to start this cluster: slurmd starts jobs as their users")
    install()
    folder = Path(tempfile.mkdtemp(prefix="saibench-slurm-"))
    folder.chmod(0o755)  # munge's socket is for all users
    with running(folder) as environment:
        code = subprocess.run(sys.argv[1:], env=environment).returncode
    if code == 0:
        shutil.rmtree(folder)
    else:
        print(f"the cluster's logs are in {folder}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
