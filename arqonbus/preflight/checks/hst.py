"""HST: whether this machine can carry what the profile promises."""

from __future__ import annotations

from arqonbus.config.capacity import memory_bill, open_files, projector_bill
from arqonbus.preflight.model import (
    EVERYWHERE,
    OUTSIDE_DEV,
    WARN_IN_DEV,
    WARNING_EVERYWHERE,
    WARNING_OUTSIDE_DEV,
    Context,
    Outcome,
    Phase,
    Remark,
    skipped,
    verdict,
)
from arqonbus.preflight.registry import check

LEAST_FREE = 2**30
LEAST_PYTHON = (3, 11)


@check(
    "ARQ-HST-001",
    "There are open files for every connection",
    phase=Phase.HOST,
    severity=WARN_IN_DEV,
    why="When they run out the bus accepts nobody, logs nothing to a new file, and looks healthy.",
    fix=("systemctl edit arqonbus@   # LimitNOFILE=65536", "ulimit -n 65536"),
    reads=("server.max_connections",),
)
def files_suffice(context: Context) -> Outcome:
    connections, host = context.settings.server.max_connections, context.host
    if host.process == "projector":
        return skipped("the projector has no clients")
    needed = open_files(context.settings)
    # The bus raises the soft limit to the hard one by itself.
    there = host.nofile_hard
    text = f"{there} files may be open and {connections} connections need {needed}"
    remarks = [Remark(text, ("server.max_connections",))] if there < needed else []
    return verdict(
        remarks, expected=f"{needed} or more", fix=[f"systemctl edit arqonbus@   # LimitNOFILE={needed}"]
    )


@check(
    "ARQ-HST-002",
    "There is memory for the promised connections",
    phase=Phase.HOST,
    severity=WARN_IN_DEV,
    why="The kernel ends the bus, and all connections with it, when they are most.",
    fix=("free -m", "$EDITOR FILE   # server: {max_connections: fewer}"),
    reads=("server.max_connections", "server.workers", "limits.send_queue_bytes"),
)
def memory_suffices(context: Context) -> Outcome:
    bill = projector_bill if context.host.process == "projector" else memory_bill
    needed, there = bill(context.settings), context.host.memory_bytes
    text = f"{_mib(needed)} MiB are needed and {_mib(there)} MiB are there"
    remarks = [Remark(text, ("server.max_connections",))] if there < needed else []
    return verdict(remarks, expected=f"{_mib(needed)} MiB or more")


def _mib(size: int) -> int:
    return -(-size // 2**20)


@check(
    "ARQ-HST-003",
    "The clock is synchronised",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="Ends of tokens, ages of messages and certificates are judged by it.",
    fix=("timedatectl set-ntp true", "timedatectl timesync-status"),
)
def clock_is_synchronised(context: Context) -> Outcome:
    state = context.host.clock_synchronised
    if state is None:
        return skipped("this host does not tell")
    return verdict(
        [] if state else ["the kernel says that the clock follows nobody"],
        expected="a clock that follows NTP",
    )


@check(
    "ARQ-HST-004",
    "The clock is not set back",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="It is before the time at which this version was made: tokens that have ended would be accepted.",
    fix=("date -u", "timedatectl set-ntp true"),
)
def clock_is_not_behind(context: Context) -> Outcome:
    behind = context.host.built_at - context.now
    text = f"it is {behind / 86_400:.1f} days before this version was installed"
    return verdict([text] if behind > 86_400 else [], expected="the time of day")


@check(
    "ARQ-HST-005",
    "There is room on the disk",
    phase=Phase.HOST,
    severity=WARN_IN_DEV,
    why="A full disk stops the engine, the log and the backup in the same moment.",
    fix=("df -h", "journalctl --vacuum-size=500M"),
    reads=("state_dir", "backup.directory"),
)
def disk_has_room(context: Context) -> Outcome:
    full = [
        disk
        for disk in context.host.disks
        if disk.exists and (disk.free_bytes < LEAST_FREE or disk.free_bytes < disk.total_bytes * 0.05)
    ]
    remarks = [
        Remark(f"{_mib(disk.free_bytes)} MiB are free under {disk.path}", (disk.key,)) for disk in full
    ]
    return verdict(remarks, expected="1 GiB and 5 % at least")


@check(
    "ARQ-HST-006",
    "There are inodes on the disk",
    phase=Phase.HOST,
    severity=WARNING_EVERYWHERE,
    why="Without them no file can be made, however much room there is.",
    fix=("df -i",),
    reads=("state_dir", "backup.directory"),
)
def disk_has_inodes(context: Context) -> Outcome:
    full = [
        disk for disk in context.host.disks if disk.total_inodes and disk.free_inodes * 20 < disk.total_inodes
    ]
    remarks = [Remark(f"{disk.free_inodes} inodes are free under {disk.path}", (disk.key,)) for disk in full]
    return verdict(remarks, expected="5 % at least")


@check(
    "ARQ-HST-007",
    "Python is new enough",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus uses what older versions do not have.",
    fix=("python3 --version",),
)
def python_is_new_enough(context: Context) -> Outcome:
    version = context.host.python
    old = tuple(version[:2]) < LEAST_PYTHON
    return verdict([f"it is {'.'.join(map(str, version))}"] if old else [], expected="3.11 or newer")


@check(
    "ARQ-HST-008",
    "The libraries are those that this version was tested with",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="Another version may lack what is called, and shows it under load.",
    fix=("pip install --require-hashes -r requirements/runtime.txt",),
)
def libraries_fit(context: Context) -> Outcome:
    requirements = context.host.requirements
    if not requirements:
        return skipped("arqonbus is not installed as a package here")
    wrong = [each for each in requirements if not each.fits]
    remarks = [f"{each.name} is {each.found or 'missing'}, wanted {each.wanted}" for each in wrong]
    return verdict(remarks, expected="the declared versions")


@check(
    "ARQ-HST-009",
    "The bus does not run as root",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="A fault in it would then be a fault of the whole host.",
    fix=("systemctl edit arqonbus@   # User=arqonbus",),
)
def is_not_root(context: Context) -> Outcome:
    return verdict(
        ["the bus would run as root"] if context.host.uid == 0 else [], expected="a user of its own"
    )


@check(
    "ARQ-HST-010",
    "Nobody else can look into the state directory",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="It holds messages, and the key that receipts are signed with.",
    fix=("chmod 0700 STATE_DIR",),
    reads=("state_dir",),
)
def state_is_private(context: Context) -> Outcome:
    shared = [d for d in context.host.disks if d.key == "state_dir" and d.exists and d.mode & 0o007]
    remarks = [f"{disk.path} has mode {disk.mode:04o}" for disk in shared]
    return verdict(remarks, expected="0750 or less", fix=[f"chmod 0700 {disk.path}" for disk in shared])


@check(
    "ARQ-HST-011",
    "Many clients can come back at once",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="After a restart all clients connect within seconds; those beyond the kernel's queue are dropped.",
    fix=("sysctl -w net.core.somaxconn=4096", "echo net.core.somaxconn=4096 > /etc/sysctl.d/arqonbus.conf"),
    reads=("server.max_connections",),
)
def listen_queue_is_long(context: Context) -> Outcome:
    length = context.host.somaxconn
    if length is None:
        return skipped("this host does not tell")
    wanted = min(1024, context.settings.server.max_connections)
    return verdict(
        [f"net.core.somaxconn is {length}"] if length < wanted else [], expected=f"{wanted} or more"
    )
