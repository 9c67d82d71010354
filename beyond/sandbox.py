"""
Sandbox: how does one run code that nobody has read?

A program that a model wrote may loop for ever, take all memory, start processes without end, delete
files or send them away: not out of malice, but nobody has looked. So each gets a Python process of
its own, with the standard library, no input, no environment, a temporary folder, and walls:

    limits          the kernel refuses or kills: CPU seconds, memory, how large a file and what is
                    printed may get, and any second process or thread, so that nothing outlives the
                    first. To be sure a clock on the wall ends all. Root's processes have no limit:
                    root is given up first, for the user nobody
    bubblewrap      Debian's bwrap, where it is installed and works (it needs user namespaces, which
                    a container may refuse): no network; no process but its own; of the files only
                    Python's and the system's, to be read; 64 MB to write, which go with it

Limits alone do not stop a program that uses the network, fills the disk with many small files,
reads, changes and deletes what its user may (as root: nobody), or sends a signal to that user's
processes, to this one too. Neither wall stops one that uses a mistake in the kernel: for an enemy's
code take a machine that can be lost. And they protect the machine, not the mark: a program that
sets out to look as if it had come to its end can find in its own process how that is told.

    python -m beyond.sandbox                # what the walls stop, tried on this machine
    python -m beyond.sandbox program.py     # run a program

Needs Linux; for the better walls, apt install bubblewrap (0.8 or later).
"""
import inspect
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

from tokenizer import Parser, clear_errors

CPU, CLOCK = 5, 30      # seconds; the clock goes on while others use the processor
LIMITS = {"NPROC": 1, "AS": 2 ** 29, "FSIZE": 2 ** 20, "CORE": 0}   # processes, then bytes
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/nix", "/etc/ld.so.cache")     # all that Python needs
NOBODY = 65534


def inside(limits, nobody):
    """What the new process does first; it is sent the text of this function."""
    import os, resource, sys    # noqa: E401
    end, program = sys.stdin.buffer.read().decode().split("\n", 1)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(nobody)
        os.setuid(nobody)
    for name, most in limits.items():       # a second later than by SIGXCPU it ends by SIGKILL
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most + (name == "CPU")))
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
    sys.stdout.flush()
    os.write(1, end.encode())
    os._exit(0)     # whatever it has left to be done at its end


def run(program, command, cpu=CPU, clock=CLOCK):
    """Run a program (text) with one of walls(): why it did not come to its end ("" if it did), and
    what it printed, at most 1 MB."""
    end, why = secrets.token_hex(16), ""    # printed last: an exit code of 0 is soon said
    source = f"{inspect.getsource(inside)}\ninside({LIMITS | {'CPU': cpu}}, {NOBODY})"
    with (tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
          tempfile.TemporaryFile() as output):
        if os.getuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        process = subprocess.Popen([*command, "-ISuc", source], cwd=folder, env={},
                                   stdin=subprocess.PIPE, stdout=output, stderr=output,
                                   start_new_session=True)
        try:
            process.communicate(f"{end}\n{program}".encode(), timeout=clock)
        except subprocess.TimeoutExpired:
            why = f"longer than {clock} seconds"
        finally:
            if process.poll() is None:      # the clock, or Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        said = output.read()
    text, code = said.decode(errors="replace"), process.returncode
    if code == 0 and text.endswith(end):
        return "", text.removesuffix(end)
    if not why and code in (-signal.SIGXCPU, 128 + signal.SIGXCPU):     # bwrap adds 128
        why = f"more than {cpu} CPU seconds"
    elif not why and len(said) >= LIMITS["FSIZE"]:
        why = "it printed too much"
    elif not why and code in (0, 1) and "Traceback" in text:
        why = text.strip().split("\n")[-1]
    return why or f"it left with exit code {code}", text


@lru_cache
def walls():
    """The walls that hold here, the better first: their names, and the commands that start Python
    within them. Each has been tried."""
    python = os.path.realpath(sys.executable)
    way = [word for path in ("/etc", *reversed(Path(sys.base_prefix).parents[:-1]))
           for word in ("--perms", "755", "--dir", str(path))]  # for nobody to a Python in /root
    seen = [word for path in (*SYSTEM, sys.base_prefix) for word in ("--ro-bind-try", path, path)]
    bwrap = [shutil.which("bwrap") or "bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc",
             "--unshare-uts", "--die-with-parent", *way, *seen, "--perms", "1777", "--size",
             f"{2 ** 26}", "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/", python]
    found = {}
    for name, command in (("bubblewrap", bwrap), ("limits alone", [python]),
                          ("limits alone", ["/usr/bin/python3"])):  # nobody may not see /root's
        try:
            if name not in found and not run("import math, random, typing", command)[0]:
                found[name] = command
        except OSError:
            pass        # that command is not there
    if not found:
        raise ValueError("no program can be run here within limits: that takes Linux, and, as "
                         "root, a Python that the user nobody may start, or bubblewrap")
    return found


# ---- What the walls stop. Each attempt does no harm where it is not stopped.

def attempts(port):
    """Programs by what they try. At the port of this machine somebody listens."""
    file = Path.home() / f"sandbox-{secrets.token_hex(8)}"
    return {
        "loops for ever": "while True: pass",
        "sleeps for ever": "import time\nwhile True: time.sleep(1)",
        "takes 10 GB of memory": "x = bytearray(10 ** 10)",
        "starts 200 processes": "import os, time\nfor _ in range(200):\n"
                                "    os.fork() or (time.sleep(5), os._exit(0))",
        "prints for ever": "while True: print('x' * 1000)",
        "writes 100 MB": "for i in range(100): open(f'{i}', 'wb').write(bytes(10 ** 6))",
        "writes to the home": f"import os\nopen({str(file)!r}, 'x')\nos.remove({str(file)!r})",
        "signals its parent": f"import os\nos.kill({os.getpid()}, 0)",
        "connects to a port": f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
        "leaves with code 0": "import os\nos._exit(0)"}


def show():
    """A table: each attempt, and what stopped it, within each of the walls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(f"{'a program that ...':24}" + "".join(f"{name:36}" for name in walls()))
        for name, program in attempts(server.getsockname()[1]).items():
            ends = [run(program, command, cpu=1, clock=10)[0] for command in walls().values()]
            print(f"{name:24}" + "".join(f"{end[:34] or '- not stopped':36}" for end in ends))


def main():
    parser = Parser("Run a Python program that nobody has read; without one, try what the walls "
                    "around it stop on this machine.")
    parser.add_argument("file", nargs="?", help="the program: it gets the standard library alone")
    options = parser.parse_args()
    with clear_errors():
        if not options.file:
            return show()
        try:
            program = Path(options.file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{options.file} is no Python program in UTF-8") from None
        name, command = next(iter(walls().items()))
        why, text = run(program, command)
        print(text, end="\n" * (text[-1:] not in ("", "\n")))
        print(f"(walls: {name}; {why or 'it came to its end'})", file=sys.stderr)
        sys.exit(1 if why else 0)


if __name__ == "__main__":
    main()
