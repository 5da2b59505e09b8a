# Shared by the scripts; sourced, never run.  Sets $root (the checkout) and $bin (its venv's programs).
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
bin=$root/.venv/bin
PATH=$PATH:/usr/sbin:/sbin:$root/.venv/debian/usr/bin
export PATH

say() { printf '%s\n' "$*" >&2; }
fail() { say "$(basename -- "$0"): $*"; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || fail "needs root: it mounts, and makes namespaces and bridges (try sudo $0)"; }

# need PROGRAM PACKAGE ...: what is missing goes on the list $wanted.
wanted=
need() {
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"
        shift 2
    done
}

# need_library FILE PACKAGE ...: the same for shared libraries.
need_library() {
    while [ $# -gt 0 ]; do
        found=
        for file in /usr/lib/*/"$1" /lib/*/"$1" /usr/lib/"$1" /usr/lib64/"$1"; do
            if [ -e "$file" ]; then found=1; break; fi
        done
        [ -n "$found" ] || wanted="$wanted $2"
        shift 2
    done
}

# What dpkg does in each step is not shown, what it complains of is.
apt_get_install() { apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null; }

# Install what is on the list; nothing is asked, and nothing happens if the list is empty.
apt_install() {
    [ -n "$wanted" ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "missing:$wanted (no apt-get here: install them yourself)"
    say "installing:$wanted"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086  # a list of words
    apt_get_install $wanted 2>/dev/null || { apt-get update -qq >&2 && apt_get_install $wanted; } ||
        fail "apt-get could not install:$wanted"
    wanted=
}

# The static busybox, which images are made from; Debian's dynamic one has the same name.
need_busybox() {
    need busybox busybox-static
    if [ -x /bin/busybox ] && ldd /bin/busybox >/dev/null 2>&1; then wanted="$wanted busybox-static"; fi
}

# What running containers takes.
need_runtime() {
    # Something that reaps, for --init; docker's own will do.
    command -v docker-init >/dev/null 2>&1 || need tini tini
    need conmon conmon crun crun runc runc ip iproute2 nsenter util-linux
    need_library libnftables.so.1 libnftables1 libseccomp.so.2 libseccomp2
}

# A python that is new enough and can make a venv; prints its path.
python() {
    for name in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        path=$(command -v "$name" 2>/dev/null) || continue
        if "$path" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$path"
            return
        fi
    done
    return 1
}

# venv EXTRAS: .venv with zonegate and these extras, only touched when pyproject.toml changed.
venv() {
    stamp="$1 $(cksum <"$root/pyproject.toml")"
    # A venv made for the tests has everything that running needs.
    if [ -x "$bin/zonegate" ] && { grep -qsFx "$stamp" "$root/.venv/.extras" || { [ "$1" != "$TESTS" ] && grep -qsFx "$TESTS ${stamp#* }" "$root/.venv/.extras"; }; }; then
        return 0
    fi
    if [ ! -x "$bin/python" ]; then
        chosen=$(python) || { wanted=" python3 python3-venv"; apt_install; chosen=$(python); } || fail "no python >= 3.11 with venv"
        say "making .venv with $chosen"
        "$chosen" -m venv "$root/.venv"
    fi
    say "installing zonegate[$1] into .venv"
    "$bin/python" -m pip install -q --disable-pip-version-check -e "$root[$1]" </dev/null >&2 || fail "pip install failed"
    # `serve` runs without docstrings (gateway.cli); compiled now, as no start is to wait for that.
    env -u PYTHONDONTWRITEBYTECODE "$bin/python" -OO -X no_debug_ranges -c 'import gateway.cli, gateway.server, gateway.hosts.linux.host'
    printf '%s\n' "$stamp" >"$root/.venv/.extras"
}
RUNTIME=speed,zstd
TESTS=speed,zstd,test

# take PROGRAM PACKAGE...: a program taken out of the first package that is to be had, where installing would also start a server.
take() {
    command -v "$1" >/dev/null 2>&1 && return 0
    command -v apt-get >/dev/null 2>&1 || return 1
    program=$1
    shift
    for package in "$@"; do
        candidate=$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^  Candidate: //p')
        case $candidate in '' | '(none)') continue ;; esac
        say "taking $program out of Debian's $package"
        fetched=$(mktemp -d)
        if (cd "$fetched" && apt-get download -qq -o APT::Sandbox::User=root "$package" >&2) &&
            dpkg-deb -x "$fetched"/*.deb "$root/.venv/debian"; then
            rm -rf "$fetched"
            command -v "$program" >/dev/null 2>&1 && return 0
        fi
        rm -rf "$fetched"
    done
    [ -z "${updated-}" ] || return 1
    updated=1
    apt-get update -qq >&2 && take "$program" "$@"
}

# The stock docker CLI, and the registry that demo and tests pull from.
need_docker_cli() {
    take docker docker-cli docker.io ||
        fail "no docker CLI, and none to be had: https://docs.docker.com/engine/install/binaries/, or apt-get install docker.io (this also starts dockerd)"
}
need_docker_registry() {
    take docker-registry docker-registry || fail "no docker-registry, and none to be had (Debian: apt-get install docker-registry)"
}

# The dockerd that answers are recorded from: one of 28 on PATH, or scripts/dockerd28 as `dockerd`.
need_dockerd28() {
    case $(dockerd --version 2>/dev/null) in *'version 28.'*) return ;; esac
    mkdir -p "$root/.venv/dockerd28"
    printf '#!/bin/sh\nexec "%s/scripts/dockerd28" "$@"\n' "$root" >"$root/.venv/dockerd28/dockerd"
    chmod 755 "$root/.venv/dockerd28/dockerd"
    PATH=$root/.venv/dockerd28:$PATH
    case $(dockerd --version) in *'version 28.'*) ;; *) fail "Debian forky has another dockerd by now: $(dockerd --version)" ;; esac
}

# wait_ready SOCKET PID LOG: until the server answers, or has ended.  It listens before it knows whether it can start.
wait_ready() {
    "$bin/python" - "$1" "$2" <<'PY' || { tail -n 20 "$3" >&2; return 1; }
import os, socket, sys, time

path, pid = sys.argv[1], int(sys.argv[2])
end = time.monotonic() + 30
while time.monotonic() < end:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        try:
            client.connect(path)
            client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            if client.recv(64):
                sys.exit(0)
        except OSError:
            pass
    try:
        with open(f"/proc/{pid}/stat") as stat:
            if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                break
    except OSError:
        break
    time.sleep(0.02)
sys.exit("the server did not come up")
PY
}

# gateway_start NAME FOLDER DATA_ROOT [ARGS]: a server of our own, ready; sets $gateway (its pid) and DOCKER_HOST.
gateway_start() {
    of=$1 at=$2 in=$3
    shift 3
    mkdir -p "$at" "$in"
    # setsid: a Ctrl-C is for the command, the server is stopped afterwards.
    setsid "$bin/zonegate" serve --name "$of" --host "unix://$at/api.sock" --data-root "$in" \
        --exec-root "$at/exec" --pidfile "$at/pid" \
        --default-address-pool base=10.213.0.0/16,size=24 "$@" </dev/null >"$at/log" 2>&1 9>&- &
    gateway=$!
    wait_ready "$at/api.sock" "$gateway" "$at/log" || fail "zonegate serve failed"
    DOCKER_HOST=unix://$at/api.sock
    export DOCKER_HOST
}

# unmount_below FOLDER: a stopped server leaves its own mounts for the next one.
unmount_below() {
    awk -v below="$1/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r target; do
        umount -l "$target" 2>/dev/null || true
    done
}

# discard FOLDER: take it away, and what is still mounted below it.
discard() {
    unmount_below "$1"
    rm -rf "$1"
}

# gateway_stop: remove its containers, then end it.
gateway_stop() {
    [ -n "${gateway-}" ] || return 0
    if kill -0 "$gateway" 2>/dev/null; then
        "$bin/python" - "${DOCKER_HOST#unix://}" <<'PY' || true
import http.client, json, socket, sys


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(sys.argv[1])


def call(method, path):
    connection = Connection("docker")
    connection.request(method, path)
    return connection.getresponse().read()


for row in json.loads(call("GET", "/containers/json?all=1")):
    call("DELETE", f"/containers/{row['Id']}?force=1&v=1")
PY
        kill "$gateway" 2>/dev/null || true
    fi
    wait "$gateway" 2>/dev/null || true
    gateway=
}
