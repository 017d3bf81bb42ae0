"""HST: limits, memory, disks, clock and software of this host."""

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
    "LimitNOFILE covers server.max_connections",
    phase=Phase.HOST,
    severity=WARN_IN_DEV,
    why="Without free file descriptors, the bus accepts no connections although it looks healthy.",
    fix=("systemctl edit arqonbus@   # LimitNOFILE=65536", "ulimit -n 65536"),
    reads=("server.max_connections",),
)
def files_suffice(context: Context) -> Outcome:
    connections, host = context.settings.server.max_connections, context.host
    if host.process == "projector":
        return skipped("the projector has no clients")
    needed = open_files(context.settings)
    # The bus raises the soft limit to the hard limit.
    there = host.nofile_hard
    text = f"the limit is {there} open files, and {connections} connections need {needed}"
    remarks = [Remark(text, ("server.max_connections",))] if there < needed else []
    return verdict(
        remarks, expected=f"at least {needed}", fix=[f"systemctl edit arqonbus@   # LimitNOFILE={needed}"]
    )


@check(
    "ARQ-HST-002",
    "The host has enough memory for server.max_connections",
    phase=Phase.HOST,
    severity=WARN_IN_DEV,
    why="Under full load, the kernel would kill the bus and close all connections.",
    fix=("free -m", "$EDITOR FILE   # server: {max_connections: fewer}"),
    reads=("server.max_connections", "server.workers", "limits.send_queue_bytes"),
)
def memory_suffices(context: Context) -> Outcome:
    bill = projector_bill if context.host.process == "projector" else memory_bill
    needed, there = bill(context.settings), context.host.memory_bytes
    text = f"{_mib(needed)} MiB are needed and {_mib(there)} MiB are available"
    remarks = [Remark(text, ("server.max_connections",))] if there < needed else []
    return verdict(remarks, expected=f"at least {_mib(needed)} MiB")


def _mib(size: int) -> int:
    return -(-size // 2**20)


@check(
    "ARQ-HST-003",
    "The clock is synchronised",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="Token expiry, message age and certificates depend on the clock.",
    fix=("timedatectl set-ntp true", "timedatectl timesync-status"),
)
def clock_is_synchronised(context: Context) -> Outcome:
    state = context.host.clock_synchronised
    if state is None:
        return skipped("this host does not report it")
    return verdict(
        [] if state else ["the kernel reports an unsynchronised clock"],
        expected="a clock synchronised by NTP",
    )


@check(
    "ARQ-HST-004",
    "The clock is not behind the installation time of this version",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="With a clock in the past, expired tokens would be accepted.",
    fix=("date -u", "timedatectl set-ntp true"),
)
def clock_is_not_behind(context: Context) -> Outcome:
    behind = context.host.built_at - context.now
    text = f"the clock is {behind / 86_400:.1f} days behind the installation of this version"
    return verdict([text] if behind > 86_400 else [], expected="the current time")


@check(
    "ARQ-HST-005",
    "Disks have free space",
    phase=Phase.HOST,
    severity=WARN_IN_DEV,
    why="A full disk stops the storage engine, the logs and the backups at the same time.",
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
    return verdict(remarks, expected="at least 1 GiB and 5 %")


@check(
    "ARQ-HST-006",
    "Disks have free inodes",
    phase=Phase.HOST,
    severity=WARNING_EVERYWHERE,
    why="Without free inodes, no file can be created even if space is free.",
    fix=("df -i",),
    reads=("state_dir", "backup.directory"),
)
def disk_has_inodes(context: Context) -> Outcome:
    full = [
        disk for disk in context.host.disks if disk.total_inodes and disk.free_inodes * 20 < disk.total_inodes
    ]
    remarks = [Remark(f"{disk.free_inodes} inodes are free under {disk.path}", (disk.key,)) for disk in full]
    return verdict(remarks, expected="at least 5 %")


@check(
    "ARQ-HST-007",
    "The Python version is supported",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="The bus uses features that older versions lack.",
    fix=("python3 --version",),
)
def python_is_new_enough(context: Context) -> Outcome:
    version = context.host.python
    old = tuple(version[:2]) < LEAST_PYTHON
    return verdict(
        [f"Python is version {'.'.join(map(str, version))}"] if old else [], expected="3.11 or newer"
    )


@check(
    "ARQ-HST-008",
    "Libraries have the required versions",
    phase=Phase.HOST,
    severity=EVERYWHERE,
    why="Other versions were not tested with this version and can fail under load.",
    fix=("pip install --require-hashes -r requirements/runtime.txt",),
)
def libraries_fit(context: Context) -> Outcome:
    requirements = context.host.requirements
    if not requirements:
        return skipped("arqonbus is not installed as a package here")
    wrong = [each for each in requirements if not each.fits]
    remarks = [f"{each.name} is {each.found or 'missing'}, required is {each.wanted}" for each in wrong]
    return verdict(remarks, expected="the declared versions")


@check(
    "ARQ-HST-009",
    "The bus does not run as root",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="As root, a fault in the bus could affect the whole host.",
    fix=("systemctl edit arqonbus@   # User=arqonbus",),
)
def is_not_root(context: Context) -> Outcome:
    return verdict(
        ["the bus would run as root"] if context.host.uid == 0 else [], expected="a dedicated user"
    )


@check(
    "ARQ-HST-010",
    "The state directory is not accessible to other users",
    phase=Phase.HOST,
    severity=OUTSIDE_DEV,
    why="It contains messages and the key that signs receipts.",
    fix=("chmod 0700 STATE_DIR",),
    reads=("state_dir",),
)
def state_is_private(context: Context) -> Outcome:
    shared = [d for d in context.host.disks if d.key == "state_dir" and d.exists and d.mode & 0o007]
    remarks = [f"{disk.path} has mode {disk.mode:04o}" for disk in shared]
    return verdict(
        remarks, expected="mode 0750 or stricter", fix=[f"chmod 0700 {disk.path}" for disk in shared]
    )


@check(
    "ARQ-HST-011",
    "net.core.somaxconn is large enough for reconnects",
    phase=Phase.HOST,
    severity=WARNING_OUTSIDE_DEV,
    why="After a restart, all clients reconnect within seconds; the kernel drops those beyond its queue.",
    fix=("sysctl -w net.core.somaxconn=4096", "echo net.core.somaxconn=4096 > /etc/sysctl.d/arqonbus.conf"),
    reads=("server.max_connections",),
)
def listen_queue_is_long(context: Context) -> Outcome:
    length = context.host.somaxconn
    if length is None:
        return skipped("this host does not report it")
    wanted = min(1024, context.settings.server.max_connections)
    return verdict(
        [f"net.core.somaxconn is {length}"] if length < wanted else [], expected=f"at least {wanted}"
    )
