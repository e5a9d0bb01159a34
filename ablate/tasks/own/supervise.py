"""Runs a command and ends all that it started: when it has ended, when told to, or when whoever started this is gone.

    python -I -S supervise.py STATUS_FD GRACE_S COMMAND…

Standard input is a pipe that closes with its starter. The status goes to the file descriptor STATUS_FD as a number: the
exit status, or less than 0 for a signal. It is a process of nobody: Ray kills what its workers have started when they
end, and would leave over what that has started. On Linux all descendants are found, also those that left the session;
elsewhere those of the command's process group. The standard library only: it starts in milliseconds.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of Linux: orphans become children of this process."""
LEFT_OVER_S = 1.0
"""How long what is left when the command has ended may clean up."""


def main(status: int, grace_s: float, command: list[str]) -> None:
    """Run a command in a process of its own, and leave at once."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except (OSError, ValueError) as error:
        print(f"cannot run {command[0]}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        os.write(status, b"127")
        os._exit(0)
    is_asked = False
    while child.poll() is None and not is_asked:
        ready, _, _ = select.select([0, woken], [], [], 1.0)
        is_asked = 0 in ready
        if woken in ready:
            is_asked = is_asked or bool(set(os.read(woken, 4096)) & {signal.SIGTERM, signal.SIGINT})
    end(child, grace_s if is_asked else LEFT_OVER_S)
    with contextlib.suppress(OSError):
        os.write(status, str(child.returncode).encode())
    os._exit(0)


def end(child: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """Send SIGTERM to the command and all below it, then SIGKILL to what is there after a while."""
    send(child, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(50):  # What is killed may have started something just before.
        if not alive(child):
            break
        send(child, signal.SIGKILL)
        time.sleep(0.02)
    child.poll()


def send(child: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to all descendants, or to the command's process group where they are not known."""
    found = descendants()
    if found is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, number)
    for pid in found or ():
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def alive(child: "subprocess.Popen[bytes]") -> bool:
    """Say whether the command or a descendant is there."""
    return child.poll() is None or bool(descendants())


def descendants() -> "set[int] | None":
    """Return the processes below this one that have not ended; None where the system does not tell."""
    try:
        names = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    parents: dict[int, int] = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            if state != b"Z":
                parents[int(name)] = int(parent)
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        above = waiting.pop()
        below = {pid for pid, parent in parents.items() if parent == above} - found
        found |= below
        waiting += below
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
