#!/usr/bin/env python3
"""Docker-API server benchmark. stdlib only.

bench.py --host NAME=unix:///a.sock --host NAME2=unix:///b.sock --out OUT.json
         [--proc NAME=PID|pidfile[:MARKER]] [--only a,b] [--skip c] [--seed busybox.tar]
         [--registry 127.0.0.1:5055] [--cli docker] [--quick]

Every benchmark is a class: setup(h) -> ctx, sample(h, ctx) -> {metric: value}, teardown(h, ctx).
Rounds are interleaved A B A B; the OUT.json has median/min/p90/n and raw samples per metric.
Units are in the metric name: _ms, _s, _MBps, _rps, _cps (containers/s), _MB, _pct.
The image named busybox (with sh, true, cat, dd, yes, head, sleep, ip) is loaded from --seed when missing.
"""

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import io
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

try:
    from isal.isal_zlib import decompressobj
except ImportError:
    from zlib import decompressobj

now = time.perf_counter
A = None


class UConn(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("d", timeout=timeout)
        self.p = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.p)


class Host:
    """One server. Connections are kept per thread (keep-alive)."""

    def __init__(self, name, url, timeout=180):
        self.name, self.url, self.path, self.timeout = name, url, url.split("://", 1)[1], timeout
        self.tl = threading.local()
        self.pid = self.marker = self.cg = None

    def req(self, m, path, body=None, hdr=None, fresh=False, ok=True, sink=None):
        h = dict(hdr or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
            h["Content-Type"] = "application/json"
        c = None if fresh else getattr(self.tl, "c", None)
        for attempt in (0, 1):
            if c is None:
                c = UConn(self.path, self.timeout)
            try:
                c.request(m, "/v1.41" + path, body=body, headers=h)
                r = c.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                c.close()
                c = None
                if attempt:
                    raise
        if sink is not None:
            n = 0
            while True:
                b = r.read(1 << 20)
                if not b:
                    break
                n += len(b)
                sink(b)
            data = n
        else:
            data = r.read()
        if fresh or r.will_close:
            c.close()
            c = None
        if not fresh:
            self.tl.c = c
        if ok and r.status >= 400:
            raise RuntimeError(
                f"{self.name} {m} {path}: {r.status} {data if sink else data[:300]!r}"
            )
        return r.status, data

    def raw_get(self, path, sink=None):
        """HTTP/1.0 GET, body to EOF with a plain recv loop, so that the client is not the bottleneck (many tiny chunks)"""
        k = socket.socket(socket.AF_UNIX)
        k.settimeout(self.timeout)
        k.connect(self.path)
        k.sendall(f"GET /v1.41{path} HTTP/1.0\r\nHost: d\r\n\r\n".encode())
        b = b""
        while b"\r\n\r\n" not in b:
            x = k.recv(65536)
            if not x:
                raise RuntimeError(f"{self.name} GET {path}: closed")
            b += x
        head, b = b.split(b"\r\n\r\n", 1)
        st = int(head.split()[1])
        n = len(b)
        if sink:
            sink(b)
        while True:
            x = k.recv(1 << 20)
            if not x:
                break
            n += len(x)
            if sink:
                sink(x)
        k.close()
        if st >= 400:
            raise RuntimeError(f"{self.name} GET {path}: {st}")
        return n

    def j(self, m, path, body=None, **k):
        d = self.req(m, path, body, **k)[1]
        return json.loads(d) if d else None

    def hijack(self, path, body=b""):
        """POST with Upgrade: tcp; returns (socket, leftover bytes)."""
        k = socket.socket(socket.AF_UNIX)
        k.settimeout(self.timeout)
        k.connect(self.path)
        k.sendall(
            (
                f"POST /v1.41{path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nConnection: Upgrade\r\n"
                f"Upgrade: tcp\r\nContent-Length: {len(body)}\r\n\r\n"
            ).encode()
            + body
        )
        b = b""
        while b"\r\n\r\n" not in b:
            x = k.recv(65536)
            if not x:
                raise RuntimeError(f"{self.name} hijack {path}: closed {b!r}")
            b += x
        head, rest = b.split(b"\r\n\r\n", 1)
        st = int(head.split()[1])
        if st not in (101, 200):
            raise RuntimeError(f"{self.name} hijack {path}: {head!r} {rest[:200]!r}")
        return k, rest

    def create(self, cmd, **kw):
        b = {"Image": "busybox", "Cmd": cmd if isinstance(cmd, list) else ["/bin/sh", "-c", cmd]}
        b.update(kw)
        return self.j("POST", "/containers/create", b)["Id"]

    def start(self, i):
        self.req("POST", f"/containers/{i}/start")

    def rm(self, i):
        self.req("DELETE", f"/containers/{i}?force=1&v=1", ok=False)

    def bg(self, i):
        self.start(i)
        return i


def drain(k):
    n = 0
    while True:
        b = k.recv(1 << 20)
        if not b:
            return n
        n += len(b)


def bgcall(f, *a):
    """run f in a thread, keep the finish time"""
    r = {}

    def w():
        try:
            r["v"] = f(*a)
        except Exception as e:
            r["e"] = e
        r["t"] = now()

    t = threading.Thread(target=w, daemon=True)
    t.start()
    r["th"] = t
    return r


def run_rm(h, st=None):
    t0 = now()
    i = h.create(["true"], AttachStdout=True, AttachStderr=True)
    t1 = now()
    k, _ = h.hijack(f"/containers/{i}/attach?stream=1&stdout=1&stderr=1")
    t2 = now()
    w = bgcall(lambda: h.req("POST", f"/containers/{i}/wait?condition=next-exit", fresh=True))
    h.start(i)
    t3 = now()
    drain(k)
    k.close()
    w["th"].join()
    t4 = now()
    if "e" in w:
        raise w["e"]
    assert json.loads(w["v"][1])["StatusCode"] == 0, w["v"]
    h.req("DELETE", f"/containers/{i}")
    t5 = now()
    return {
        "total_ms": (t5 - t0) * 1e3,
        "create_ms": (t1 - t0) * 1e3,
        "attach_ms": (t2 - t1) * 1e3,
        "start_ms": (t3 - t2) * 1e3,
        "exit_ms": (t4 - t3) * 1e3,
        "delete_ms": (t5 - t4) * 1e3,
    }


class B:
    rounds = 15
    qrounds = 4
    warm = 1
    budget = 60  # seconds for one host over all rounds

    def setup(self, h):
        return None

    def teardown(self, h, c):
        pass


class RunRm(B):
    name = "run_rm"
    rounds = 12

    def sample(self, h, c):
        def cg():
            return int(open(h.cg + "/cpuacct.usage").read()) / 1e6

        if not h.cg:
            return run_rm(h)
        c0 = cg()
        o = run_rm(h)
        time.sleep(0.3)
        o["cpu_ms"] = cg() - c0
        return o


class Cli(B):
    name = "cli"
    rounds = 10

    def sample(self, h, c):
        e = dict(os.environ, DOCKER_HOST=h.url)
        o = {}

        def t(n, *a):
            t0 = now()
            subprocess.run([A.cli, *a], env=e, check=True, stdout=subprocess.DEVNULL, timeout=60)
            o[n] = (now() - t0) * 1e3

        t("run_rm_ms", "run", "--rm", "busybox", "true")
        t("run_rm_nonet_ms", "run", "--rm", "--net=none", "busybox", "true")
        t("ps_ms", "ps", "-a")
        t("version_ms", "version")
        return o


class RunD(B):
    name = "run_d"
    rounds = 10

    def sample(self, h, c):
        t0 = now()
        i = h.create(["sleep", "1000"])
        h.start(i)
        t1 = now()
        h.req("DELETE", f"/containers/{i}?force=1")
        t2 = now()
        return {"run_d_ms": (t1 - t0) * 1e3, "rm_f_ms": (t2 - t1) * 1e3}


class Exec(B):
    name = "exec"
    rounds = 12

    def setup(self, h):
        return h.bg(h.create(["sleep", "1000"]))

    def sample(self, h, c):
        t0 = now()
        e = h.j(
            "POST",
            f"/containers/{c}/exec",
            {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True},
        )["Id"]
        k, _ = h.hijack(f"/exec/{e}/start", b'{"Detach":false,"Tty":false}')
        drain(k)
        k.close()
        x = h.j("GET", f"/exec/{e}/json")
        t1 = now()
        assert x["ExitCode"] in (0, None), x
        return {"true_ms": (t1 - t0) * 1e3}

    def teardown(self, h, c):
        h.rm(c)


class StartStop(B):
    name = "start_stop"
    rounds = 10

    def setup(self, h):
        return h.create("trap 'exit 0' TERM; sleep 1000 & wait")

    def sample(self, h, c):
        t0 = now()
        h.start(c)
        t1 = now()
        time.sleep(0.05)
        t2 = now()
        h.req("POST", f"/containers/{c}/stop?t=5")
        t3 = now()
        h.start(c)
        t4 = now()
        h.req("POST", f"/containers/{c}/pause", ok=False)
        t5 = now()
        h.req("POST", f"/containers/{c}/unpause", ok=False)
        t6 = now()
        t7 = now()
        h.j("GET", f"/containers/{c}/stats?stream=0&one-shot=1", ok=False)
        t8 = now()
        h.req("POST", f"/containers/{c}/kill")
        h.req("POST", f"/containers/{c}/wait")
        t9 = now()
        return {
            "start_ms": (t1 - t0) * 1e3,
            "stop_ms": (t3 - t2) * 1e3,
            "pause_ms": (t5 - t4) * 1e3,
            "unpause_ms": (t6 - t5) * 1e3,
            "stats_oneshot_ms": (t8 - t7) * 1e3,
            "kill_wait_ms": (t9 - t8) * 1e3,
        }

    def teardown(self, h, c):
        h.rm(c)


class Par20(B):
    name = "par20"
    rounds = 2
    qrounds = 2
    warm = 0

    def sample(self, h, c):
        o = {}
        for n in (4, 20):
            with ThreadPoolExecutor(n) as ex:
                t0 = now()
                fs = [ex.submit(run_rm, h) for _ in range(20)]
                for f in fs:
                    f.result(timeout=120)
                o[f"c{n}_cps"] = 20 / (now() - t0)
        return o


class Ps(B):
    name = "ps"
    rounds = 1
    qrounds = 1
    warm = 0
    budget = 200

    def sample(self, h, c):
        o = {}
        ids = []
        lim = now() + (60 if A.quick else 110)
        try:
            for n in (10, 100) if A.quick else (10, 100, 1000):
                need = n - len(ids)
                t0 = now()

                def mk(_):
                    if now() > lim:
                        return None
                    return h.create(["true"], Labels={"bench": "1"}, ExposedPorts={"80/tcp": {}})

                with ThreadPoolExecutor(4) as ex:
                    ids += [x for x in ex.map(mk, range(need)) if x]
                o[f"create_at{n}_cps"] = need / (now() - t0)
                if len(ids) < n:
                    o["reached_n"] = len(ids)
                L = []
                I = []
                F = []
                for q in range(7 if n > 100 else 15):
                    t0 = now()
                    _st, d = h.req("GET", "/containers/json?all=1")
                    L.append((now() - t0) * 1e3)
                    t0 = now()
                    h.req("GET", f"/containers/{ids[q % len(ids)]}/json")
                    I.append((now() - t0) * 1e3)
                    t0 = now()
                    h.req("GET", "/containers/json")
                    F.append((now() - t0) * 1e3)
                    if now() > lim + 30:
                        break
                o[f"list{n}_ms"] = statistics.median(L)
                o[f"inspect{n}_ms"] = statistics.median(I)
                o[f"list_running{n}_ms"] = statistics.median(F)
                o[f"list{n}_KB"] = len(d) / 1e3
                if len(ids) < n:
                    break
        finally:
            t0 = now()
            with ThreadPoolExecutor(4) as ex:
                list(ex.map(h.rm, ids))
            o["delete_cps"] = len(ids) / (now() - t0)
        return o


class Http(B):
    name = "http"
    rounds = 2
    qrounds = 2
    warm = 0

    def load(self, h, path, conns, secs):
        r = f"GET /v1.41{path} HTTP/1.1\r\nHost: d\r\n\r\n".encode()
        ep = select.epoll()
        m = {}
        n = 0
        for _ in range(conns):
            k = socket.socket(socket.AF_UNIX)
            k.settimeout(10)
            k.connect(h.path)
            k.sendall(r)
            m[k.fileno()] = [k, b""]
            ep.register(k.fileno(), select.EPOLLIN)
        t0 = now()
        end = t0 + secs
        while now() < end:
            for fd, _ in ep.poll(1):
                k = m[fd]
                b = k[1] + k[0].recv(262144)
                i = b.find(b"\r\n\r\n")
                full = False
                if i >= 0:
                    hd = b[:i].lower()
                    p = hd.find(b"content-length:")
                    if p >= 0:
                        full = len(b) - i - 4 >= int(hd[p + 15 :].split(b"\r\n", 1)[0])
                    else:
                        full = b.endswith(b"0\r\n\r\n")
                if full:
                    n += 1
                    k[1] = b""
                    k[0].sendall(r)
                else:
                    k[1] = b
        dt = now() - t0
        for k, _ in m.values():
            k.close()
        return n / dt

    def sample(self, h, c):
        o = {}
        for p, n in (
            ("_ping", 1),
            ("_ping", 32),
            ("version", 1),
            ("containers/json", 1),
            ("containers/json", 8),
        ):
            o[f"{p}_c{n}_rps"] = self.load(h, "/" + p, n, 1.5)
        t = []
        for _ in range(50):
            t0 = now()
            h.req("GET", "/_ping", fresh=True)
            t.append((now() - t0) * 1e3)
        o["ping_newconn_ms"] = statistics.median(t)
        return o


class Logs(B):
    name = "logs"
    rounds = 3
    qrounds = 1
    warm = 0

    def sample(self, h, c):
        i = h.create(
            "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789 | head -c 100000000"
        )
        try:
            t0 = now()
            h.start(i)
            h.req("POST", f"/containers/{i}/wait")
            t1 = now()
            n = h.raw_get(f"/containers/{i}/logs?stdout=1&stderr=1")
            t2 = now()
            assert n > 99e6, n
            t3 = now()
            h.req("GET", f"/containers/{i}/logs?stdout=1&tail=100", sink=lambda b: 0)
            t4 = now()
        finally:
            h.rm(i)
        return {
            "write_MBps": 100 / (t1 - t0),
            "read_MBps": 100 / (t2 - t1),
            "tail100_ms": (t4 - t3) * 1e3,
        }


class Echo(B):
    """attach stdin -> container -> attach stdout, and -> logs follow"""

    name = "echo"
    rounds = 3
    qrounds = 1
    warm = 0

    def sample(self, h, c):
        i = h.create(
            "while read l; do echo $l; done",
            OpenStdin=True,
            StdinOnce=False,
            AttachStdin=True,
            AttachStdout=True,
        )
        try:
            k, _ = h.hijack(f"/containers/{i}/attach?stream=1&stdout=1&stdin=1")
            h.start(i)
            f = socket.socket(socket.AF_UNIX)
            f.settimeout(20)
            f.connect(h.path)
            f.sendall(
                f"GET /v1.41/containers/{i}/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode()
            )
            time.sleep(0.5)
            L = []
            T = []
            for q in range(20):
                m = f"line{q:06d}".encode()
                t0 = now()
                k.sendall(m + b"\n")
                b = b""
                g = b""
                ta = tl = None
                while ta is None or tl is None:
                    r, _, _ = select.select(
                        [x for x, d in ((k, ta), (f, tl)) if d is None], [], [], 10
                    )
                    if not r:
                        raise RuntimeError("echo timeout")
                    if k in r:
                        b += k.recv(65536)
                        if m in b:
                            ta = now()
                    if f in r:
                        g += f.recv(65536)
                        if m in g:
                            tl = now()
                L.append((tl - t0) * 1e3)
                T.append((ta - t0) * 1e3)
                time.sleep(0.02)
            k.close()
            f.close()
        finally:
            h.rm(i)
        return {"attach_rtt_ms": statistics.median(T), "follow_ms": statistics.median(L)}


class Attach(B):
    name = "attach"
    rounds = 3
    qrounds = 1
    warm = 0

    def sample(self, h, c):
        o = {}
        # no log driver: json-file would write every NUL as a 6 byte escape (3 GB for 500 MB)
        for nm, cmd, mb, kw in (
            (
                "stdout_nolog",
                ["dd", "if=/dev/zero", "bs=1M", "count=500"],
                524.288,
                {"HostConfig": {"LogConfig": {"Type": "none"}}},
            ),
            (
                "stdout_logged_text",
                "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789 | head -c 100000000",
                100,
                {},
            ),
        ):
            try:
                i = h.create(cmd, AttachStdout=True, **kw)
            except RuntimeError as e:
                o["err"] = str(e)[:200]
                continue
            try:
                k, _ = h.hijack(f"/containers/{i}/attach?stream=1&stdout=1")
                t0 = now()
                h.start(i)
                n = drain(k)
                o[nm + "_MBps"] = mb / (now() - t0)
                if n < mb * 1e6:
                    o[nm + "_short_bytes"] = n
                k.close()
            except Exception as e:
                o["err"] = f"{nm}: {type(e).__name__} {e}"[:200]
            finally:
                h.rm(i)
        i = h.create(
            "cat >/dev/null", OpenStdin=True, StdinOnce=True, AttachStdin=True, AttachStdout=True
        )
        try:
            k, _ = h.hijack(f"/containers/{i}/attach?stream=1&stdout=1&stdin=1")
            h.start(i)
            z = bytes(1 << 20)
            t0 = now()
            for _ in range(200):
                k.sendall(z)
            k.shutdown(socket.SHUT_WR)
            drain(k)
            h.req("POST", f"/containers/{i}/wait")
            o["stdin_MBps"] = 200 / (now() - t0)
            k.close()
        finally:
            h.rm(i)
        return o


def mktar(files):
    b = io.BytesIO()
    t = tarfile.open(fileobj=b, mode="w")
    for n, d in files:
        x = tarfile.TarInfo(n)
        x.size = len(d)
        x.mode = 0o644
        t.addfile(x, io.BytesIO(d))
    t.close()
    return b.getvalue()


class Cp(B):
    name = "cp"
    rounds = 3
    qrounds = 1
    warm = 0

    def setup(self, h):
        if not hasattr(self, "bigt"):
            self.bigt = mktar([("big", os.urandom(1 << 20) * 200)])
            self.smallt = mktar([(f"d/f{i}", os.urandom(1024)) for i in range(5000)])
        return h.bg(h.create(["sleep", "1000"]))

    def sample(self, h, c):
        o = {}
        for n, t in (("200MB", self.bigt), ("5000files", self.smallt)):
            t0 = now()
            h.req(
                "PUT",
                f"/containers/{c}/archive?path=/tmp",
                t,
                {"Content-Type": "application/x-tar"},
            )
            o[f"put_{n}_s"] = now() - t0
            p = "/tmp/big" if n == "200MB" else "/tmp/d"
            t0 = now()
            h.raw_get(f"/containers/{c}/archive?path={p}")
            o[f"get_{n}_s"] = now() - t0
        return o

    def teardown(self, h, c):
        h.rm(c)


def pull(h, ref):
    n, t = ref.rsplit(":", 1)
    tail = [b""]

    def sk(b):
        tail[0] = (tail[0] + b)[-4000:]

    t0 = now()
    h.req(
        "POST",
        f"/images/create?fromImage={urllib.parse.quote(n, safe='')}&tag={t}",
        sink=sk,
        fresh=True,
    )
    dt = now() - t0
    for l in tail[0].split(b"\n")[1:]:
        if b'"error"' in l:
            raise RuntimeError(f"{h.name} pull {ref}: {l[:300]!r}")
    return dt


def rmi(h, ref):
    h.req("DELETE", f"/images/{ref}?force=1", ok=False)


def spent(h):
    """CPU seconds of the server and of its children that have ended."""
    t = 0
    for p in procs(h):
        try:
            x = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
            t += sum(map(int, x[11:15]))
        except OSError:
            pass
    return t / os.sysconf("SC_CLK_TCK")


def spread(folder):
    """chattr +T, where there is such a thing: ext4 without a journal looks for a place for each new file behind all that
    were removed in the last minutes, and the floor is not to be measured by what the servers have removed."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        (flags,) = struct.unpack("l", fcntl.ioctl(fd, 0x80086601, bytes(8)))
        fcntl.ioctl(fd, 0x40086602, struct.pack("l", flags | 0x20000))
        os.close(fd)


def floor(ref, tag):
    """CPU seconds of what a pull cannot do without: inflate, both digests, tar; one layer after the other."""
    base = f"http://{A.registry}/v2/{ref}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{base}/manifests/{tag}", headers=accept)
    ) as r:
        layers = json.load(r)["layers"]
    t = 0
    with tempfile.TemporaryDirectory(dir="/tmp") as base_dir:
        spread(base_dir)
        for row in layers:
            root = tempfile.mkdtemp(dir=base_dir)
            with urllib.request.urlopen(f"{base}/blobs/{row['digest']}") as r:
                blob = r.read()
            t0 = os.times()
            z, outer, inner = decompressobj(31), hashlib.sha256(), hashlib.sha256()
            with subprocess.Popen(["tar", "-xf", "-", "-C", root], stdin=subprocess.PIPE) as tar:
                for at in range(0, len(blob), 1 << 18):
                    part = blob[at : at + (1 << 18)]
                    outer.update(part)
                    data = z.decompress(part)
                    inner.update(data)
                    tar.stdin.write(data)
            t1 = os.times()
            t += sum(t1[:4]) - sum(t0[:4])
    return t


class Pull(B):
    name = "pull"
    floor = None
    rounds = 3
    qrounds = 1
    warm = 0
    budget = 150

    def sample(self, h, c):
        r = A.registry
        o = {}
        rmi(h, f"{r}/big:gz")
        os.sync()
        if self.floor is None:
            self.floor = floor("big", "gz")
        o["floor_cpu_s"] = self.floor
        c0 = spent(h) if h.pid else None
        o["gz_s"] = pull(h, f"{r}/big:gz")
        if c0 is not None:
            o["gz_cpu_s"] = spent(h) - c0
        o["present_ms"] = statistics.median(pull(h, f"{r}/big:gz") * 1e3 for _ in range(3))
        t0 = now()
        rmi(h, f"{r}/big:gz")
        o["rmi_s"] = now() - t0
        try:
            o["zst_s"] = pull(h, f"{r}/big:zst")
        except RuntimeError as e:
            o.setdefault("err", str(e)[:200])
        rmi(h, f"{r}/big:zst")
        try:
            with ThreadPoolExecutor(3) as ex:
                t0 = now()
                list(
                    ex.map(
                        lambda x: pull(h, f"{r}/{x}"), ("para:latest", "parb:latest", "parc:latest")
                    )
                )
                o["par3_s"] = now() - t0
        finally:
            for x in "abc":
                rmi(h, f"{r}/par{x}:latest")
        rmi(h, f"{r}/busybox:latest")
        o["small_ms"] = pull(h, f"{r}/busybox:latest") * 1e3
        return o


class SaveLoad(B):
    name = "save_load"
    rounds = 2
    qrounds = 1
    warm = 0
    budget = 120

    def sample(self, h, c):
        r = A.registry
        o = {}
        ref = f"{r}/big:gz"
        pull(h, ref)
        f = f"/tmp/bench-save-{os.getpid()}.tar"
        try:
            with open(f, "wb") as fd:
                t0 = now()
                h.raw_get(f"/images/{urllib.parse.quote(ref, safe='')}/get", fd.write)
                o["save_s"] = now() - t0
            o["save_MB"] = os.path.getsize(f) / 1e6
            rmi(h, ref)
            with open(f, "rb") as fd:
                t0 = now()
                h.req(
                    "POST",
                    "/images/load?quiet=1",
                    fd,
                    {
                        "Content-Type": "application/x-tar",
                        "Content-Length": str(os.path.getsize(f)),
                    },
                )
                o["load_s"] = now() - t0
            rmi(h, ref)
        finally:
            os.path.exists(f) and os.unlink(f)
        return o


class Build(B):
    name = "build"
    rounds = 3
    qrounds = 1
    warm = 0
    budget = 90

    def sample(self, h, c):
        df = 'FROM busybox\nENV A=b\nWORKDIR /w\nCOPY a /w/a\nRUN echo 1 > 1\nRUN echo 2 > 2\nCOPY b /w/b\nRUN cat a b > c\nLABEL x=y\nCMD ["cat","c"]\n'
        t = mktar([("Dockerfile", df.encode()), ("a", b"a" * 1000), ("b", b"b" * 100000)])
        o = {}
        for n, q in (("nocache_s", "&nocache=1"), ("cached_s", ""), ("cached2_s", "")):
            out = []
            t0 = now()
            h.req(
                "POST",
                f"/build?t=benchb:1&rm=1&forcerm=1{q}",
                t,
                {"Content-Type": "application/x-tar"},
                sink=out.append,
            )
            o[n] = now() - t0
            x = b"".join(out)
            if b"errorDetail" in x or b'"error"' in x:
                raise RuntimeError(h.name + " build " + x[-300:].decode())
        rmi(h, "benchb:1")
        return o


class Events(B):
    name = "events"
    rounds = 10

    def setup(self, h):
        k = socket.socket(socket.AF_UNIX)
        k.settimeout(10)
        k.connect(h.path)
        k.sendall(b"GET /v1.41/events HTTP/1.1\r\nHost: d\r\n\r\n")
        time.sleep(0.3)
        try:
            k.setblocking(False)
            k.recv(1 << 20)
        except BlockingIOError:
            pass
        k.settimeout(10)
        return k

    def until(self, k, i, acts):
        b = b""
        while True:
            b += k.recv(65536)
            for l in b.split(b"\n"):
                for a in acts:
                    if i.encode() in l and (b'"Action":"%s"' % a in l or b'"status":"%s"' % a in l):
                        return now()

    def sample(self, h, k):
        i = h.create(["sleep", "1000"])
        try:
            e = bgcall(self.until, k, i, [b"start"])
            t0 = now()
            h.start(i)
            t1 = now()
            e["th"].join()
            if "e" in e:
                raise e["e"]
            pid = h.j("GET", f"/containers/{i}/json")["State"]["Pid"]
            w = bgcall(lambda: h.req("POST", f"/containers/{i}/wait", fresh=True))
            e2 = bgcall(self.until, k, i, [b"die", b"died"])
            time.sleep(0.25)
            t2 = now()
            os.kill(pid, 9)
            w["th"].join()
            e2["th"].join()
            if "e" in e2:
                raise e2["e"]
            return {
                "start_to_event_ms": (e["v"] - t0) * 1e3,
                "start_return_ms": (t1 - t0) * 1e3,
                "exit_to_wait_ms": (w["t"] - t2) * 1e3,
                "exit_to_die_event_ms": (e2["v"] - t2) * 1e3,
            }
        finally:
            h.rm(i)

    def teardown(self, h, k):
        k.close()


def procs(h):
    """server tree + processes with the marker in the command line, outside any container pid namespace"""
    par = {}
    cmd = {}
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                par[int(p)] = int(open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()[1])
                cmd[int(p)] = open(f"/proc/{p}/cmdline", "rb").read()
            except OSError:
                pass
    ns = os.readlink(f"/proc/{h.pid}/ns/pid")
    S = {h.pid}
    ch = True
    if h.marker:
        S |= {
            p
            for p, c in cmd.items()
            if h.marker.encode() in c and p != os.getpid() and b"bench.py" not in c
        }
    while ch:
        n = {p for p, q in par.items() if q in S} - S
        S |= n
        ch = bool(n)
    o = []
    for p in S:
        try:
            if os.readlink(f"/proc/{p}/ns/pid") == ns:
                o.append(p)
        except OSError:
            pass
    return o


def pss(ps):
    t = 0
    r = 0
    for p in ps:
        try:
            for l in open(f"/proc/{p}/smaps_rollup"):
                if l.startswith("Pss:"):
                    t += int(l.split()[1])
                if l.startswith("Rss:"):
                    r += int(l.split()[1])
        except OSError:
            pass
    return t / 1e3, r / 1e3


def cpu(ps):
    t = 0
    for p in ps:
        try:
            x = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
            t += int(x[11]) + int(x[12])
        except OSError:
            pass
    return t / os.sysconf("SC_CLK_TCK")


class Mem(B):
    name = "mem"
    rounds = 1
    qrounds = 1
    warm = 0
    budget = 120

    def sample(self, h, c):
        if not h.pid:
            return {}
        o = {}
        ps = procs(h)
        o["idle_pss_MB"], o["idle_rss_MB"] = pss(ps)
        o["idle_procs_n"] = len(ps)
        c0 = cpu(ps)
        time.sleep(5)
        o["idle_cpu_pct"] = (cpu(ps) - c0) / 5 * 100
        N = 20 if A.quick else 50
        ids = []
        try:
            with ThreadPoolExecutor(4) as ex:
                ids = list(ex.map(lambda _: h.create(["sleep", "1000"]), range(N)))
                list(ex.map(h.start, ids))
            time.sleep(2)
            ps = procs(h)
            o["run_pss_MB"], o["run_rss_MB"] = pss(ps)
            o["run_procs_n"] = len(ps)
            o["per_container_pss_MB"] = (o["run_pss_MB"] - o["idle_pss_MB"]) / N
            c0 = cpu(ps)
            time.sleep(5)
            o["run_idle_cpu_pct"] = (cpu(ps) - c0) / 5 * 100
            t0 = now()
            h.req("GET", "/containers/json")
            o["list_running_ms"] = (now() - t0) * 1e3
        finally:
            with ThreadPoolExecutor(4) as ex:
                list(ex.map(h.rm, ids))
        return o


ALL = [
    RunRm,
    Cli,
    RunD,
    Exec,
    StartStop,
    Events,
    Echo,
    Par20,
    Logs,
    Attach,
    Cp,
    Build,
    Pull,
    SaveLoad,
    Mem,
    Ps,
    Http,
]


def main():
    global A
    p = argparse.ArgumentParser()
    p.add_argument("--host", action="append", required=True)
    p.add_argument("--proc", action="append", default=[])
    p.add_argument(
        "--cg",
        action="append",
        default=[],
        help="NAME=cpuacct cgroup dir of the server: adds cpu_ms per run",
    )
    p.add_argument("--out", required=True)
    p.add_argument("--only", default="")
    p.add_argument("--skip", default="")
    p.add_argument("--seed", default="")
    p.add_argument("--registry", default="127.0.0.1:5055")
    p.add_argument("--cli", default="docker")
    p.add_argument("--quick", action="store_true")
    A = p.parse_args()
    hs = [Host(*x.split("=", 1)) for x in A.host]
    for x in A.proc:
        n, v = x.split("=", 1)
        v, _, m = v.partition(":")
        h = next(h for h in hs if h.name == n)
        h.pid = int(v) if v.isdigit() else int(open(v).read())
        h.marker = m or None
    for x in A.cg:
        n, v = x.split("=", 1)
        next(h for h in hs if h.name == n).cg = v
    for h in hs:
        if h.req("GET", "/images/busybox/json", ok=False)[0] != 200 and A.seed:
            h.req(
                "POST",
                "/images/load",
                open(A.seed, "rb").read(),
                {"Content-Type": "application/x-tar"},
            )
            if h.req("GET", "/images/busybox/json", ok=False)[0] != 200:
                h.req(
                    "POST",
                    "/images/localhost/busybox:latest/tag?repo=docker.io/library/busybox&tag=latest",
                    ok=False,
                )
    only = set(filter(None, A.only.split(",")))
    skip = set(filter(None, A.skip.split(",")))
    R = {
        "meta": {
            "time": time.strftime("%FT%TZ", time.gmtime()),
            "hosts": {h.name: (h.j("GET", "/version") or {}).get("Version") for h in hs},
            "ncpu": os.cpu_count(),
            "kernel": os.uname().release,
        },
        "results": {},
    }
    for C in ALL:
        b = C()
        if (only and b.name not in only) or b.name in skip:
            continue
        ctx = {}
        raw = {h.name: {} for h in hs}
        err = {}
        used = {h.name: 0 for h in hs}
        la = os.getloadavg()[0]
        for h in hs:
            try:
                ctx[h.name] = b.setup(h)
            except Exception as e:
                err[h.name] = f"setup: {e}"[:300]
        for r in range(b.warm + (b.qrounds if A.quick else b.rounds)):
            for h in hs if r % 2 == 0 else hs[::-1]:
                if h.name in err or used[h.name] > b.budget:
                    continue
                t0 = now()
                try:
                    o = b.sample(h, ctx[h.name])
                    if "err" in o:
                        err.setdefault(h.name + " (partial)", o.pop("err"))
                    if r >= b.warm:
                        for k, v in o.items():
                            raw[h.name].setdefault(k, []).append(v)
                except Exception as e:
                    err[h.name] = f"{type(e).__name__}: {e}"[:300]
                used[h.name] += now() - t0
        for h in hs:
            if h.name in ctx:
                try:
                    b.teardown(h, ctx[h.name])
                except Exception as e:
                    err.setdefault(h.name, f"teardown: {e}"[:300])
        res = {}
        for h in hs:
            for k, v in raw[h.name].items():
                w = sorted(v)
                res.setdefault(k, {})[h.name] = {
                    "med": statistics.median(w),
                    "min": w[0],
                    "p90": w[min(len(w) - 1, int(len(w) * 0.9))],
                    "max": w[-1],
                    "n": len(w),
                    "raw": [round(x, 4) for x in v],
                }
        R["results"][b.name] = {
            "metrics": res,
            "errors": err,
            "load1": [la, os.getloadavg()[0]],
            "secs": {k: round(v, 1) for k, v in used.items()},
        }
        print(
            f"== {b.name}  secs {R['results'][b.name]['secs']} load {la:.1f}->{os.getloadavg()[0]:.1f}",
            f"ERR {err}" if err else "",
        )
        base = hs[0].name
        for k, d in res.items():
            line = f"  {k:26}"
            for h in hs:
                if h.name in d:
                    x = d[h.name]
                    line += f"  {h.name} {x['med']:10.2f} (min {x['min']:.2f})"
                    if h.name != base and base in d and d[base]["med"]:
                        line += f" x{x['med'] / d[base]['med']:.2f}"
            print(line, flush=True)
        json.dump(R, open(A.out, "w"), indent=1)


main()
