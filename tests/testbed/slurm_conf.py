"""The configuration files of the Slurm test-bed as text. Pure: knows Slurm's settings and no process.

Nodes have four processors each. The last but one has four pretended GPUs, the last one four times the memory.
There are three partitions: `main`, `short` (5 minutes at most) and `spot`, whose jobs `main` preempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

NETWORK = "10.78.0"
CONTROLLER = f"{NETWORK}.1"
CONTROLLER_PORT = 16817
DATABASE_PORT = 16819
MARIADB_PORT = 13307
PROCESSORS, MEGABYTES = 4, 4000


class Layout(NamedTuple):
    """Where a cluster stands and what it has."""

    base: str
    nodes: Sequence[str]
    accounting: bool
    cgroups: bool
    hostname: str
    extra: str


def address(node: str) -> str:
    """The address of a node: n1 has 10.78.0.11."""
    return f"{NETWORK}.{10 + int(node[1:])}"


def hosts(cluster: Layout) -> str:
    lines = ["127.0.0.1 localhost", f"{CONTROLLER} {cluster.hostname} controller"]
    return "\n".join([*lines, *(f"{address(node)} {node}" for node in cluster.nodes)]) + "\n"


def slurm_conf(cluster: Layout) -> str:
    return "\n".join(
        [_GENERAL.format(c=cluster), *_tracking(cluster), *_accounting(cluster), *_nodes(cluster)]
    )


_GENERAL = f"""\
ClusterName=toilcachetests
SlurmctldHost={{c.hostname}}({CONTROLLER})
SlurmctldPort={CONTROLLER_PORT}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={{c.base}}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={{c.base}}/state
SlurmdSpoolDir={{c.base}}/spool/%n
SlurmctldPidFile={{c.base}}/run/slurmctld.pid
SlurmdPidFile={{c.base}}/run/slurmd-%n.pid
SlurmctldLogFile={{c.base}}/log/slurmctld.log
SlurmdLogFile={{c.base}}/log/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
InactiveLimit=0
MinJobAge=300
MaxArraySize=1001
MaxJobCount=20000
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PropagateResourceLimits=NONE
CompleteWait=0
JobRequeue=1
KillWait=2
EpilogMsgTime=0
SchedulerParameters=sched_min_interval=0,sched_interval=1,batch_sched_delay=0,bf_interval=1,bf_yield_interval=100000,\
default_queue_depth=1000,bf_max_job_test=1000,nohold_on_prolog_fail
{{c.extra}}"""


def _tracking(cluster: Layout) -> list[str]:
    """With control groups a job's processes cannot escape, and the kernel keeps its memory limit."""
    if cluster.cgroups:
        return [
            "ProctrackType=proctrack/cgroup",
            "TaskPlugin=task/cgroup",
            "JobAcctGatherType=jobacct_gather/cgroup",
        ]
    return ["ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none"]


def _accounting(cluster: Layout) -> list[str]:
    if not cluster.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={DATABASE_PORT}",
        f"AccountingStoragePass={cluster.base}/munge/socket",
        "AccountingStorageEnforce=associations,limits,qos",
    ]


def _nodes(cluster: Layout) -> list[str]:
    lines = [f"NodeName=DEFAULT CPUs={PROCESSORS} RealMemory={MEGABYTES} TmpDisk=4000 State=UNKNOWN"]
    for node in cluster.nodes:
        special = "Feature=std"
        if node == cluster.nodes[-1]:
            special = f"Feature=bigmem RealMemory={4 * MEGABYTES}"
        elif node == cluster.nodes[-2]:
            special = "Feature=gpu Gres=gpu:4"
        lines.append(f"NodeName={node} NodeHostname={node} NodeAddr={address(node)} {special}")
    usual = "Nodes=ALL State=UP DefMemPerCPU=200"
    return [
        *lines,
        f"PartitionName=main {usual} Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=10",
        f"PartitionName=short {usual} MaxTime=5 DefaultTime=1 PriorityTier=20 PreemptMode=OFF",
        f"PartitionName=spot {usual} MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE",
        "",
    ]


def gres_conf(cluster: Layout) -> str:
    """Slurm 22.05 takes a GPU only with a device file."""
    return f"NodeName={cluster.nodes[-2]} Name=gpu File={cluster.base}/dev/gpu[0-3]\n"


CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
"""


def slurmdbd_conf(cluster: Layout) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={cluster.base}/munge/socket
DbdHost={cluster.hostname}
DbdAddr=127.0.0.1
DbdPort={DATABASE_PORT}
SlurmUser=root
LogFile={cluster.base}/log/slurmdbd.log
PidFile={cluster.base}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={MARIADB_PORT}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def mariadb_conf(cluster: Layout) -> str:
    return f"""\
[mariadbd]
datadir={cluster.base}/mysql
socket={cluster.base}/mysql/socket
pid-file={cluster.base}/mysql/pid
log-error={cluster.base}/mysql/error.log
bind-address=127.0.0.1
port={MARIADB_PORT}
skip-name-resolve
innodb_buffer_pool_size=64M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
"""


DATABASE_USER = """\
create user 'slurm'@'127.0.0.1' identified by 'slurm';
create user 'slurm'@'localhost' identified by 'slurm';
create database slurm_acct_db;
grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';
grant all on slurm_acct_db.* to 'slurm'@'localhost';
"""
