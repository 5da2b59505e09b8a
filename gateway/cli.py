"""The command `zonegate`: serve, spec, doctor, images verify.

Flags have dockerd's names where dockerd has the flag.  Nothing heavy is imported before a subcommand
needs it, so that `zonegate --help` answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dockerapi.errors import APIError, InvalidParameter
from gateway import memory

if TYPE_CHECKING:
    from gateway.settings import Settings

DEFAULT_CONFIG = Path("/etc/zonegate/config.toml")
_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}
_SPEC_FLAGS = frozenset(
    {
        "image-config",
        "image-manifest",
        "image-type",
        "image-uuid",
        "uuid",
        "config",
        "data-root",
        "backend",
        "registry-mirror",
        "insecure-registry",
    }
)
"""Flags of `zonegate spec` itself; every other one is `docker run`'s."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exits 0, 1 with one line on stderr, or 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and arguments[:1] == ["serve"]:
        memory.start_lean()
    try:
        if arguments[:1] == ["spec"] and not {"-h", "--help"} & set(arguments[1:2]):
            # Not argparse's: what follows the image belongs to the container's command.
            status = _spec(arguments[1:])
        else:
            options = _parser().parse_args(arguments)
            status = {"serve": _serve, "doctor": _doctor, "images": _verify}[options.command](
                options
            )
    except APIError as error:
        print(f"zonegate: {error.message}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


class _Parser(argparse.ArgumentParser):
    """Flags are written in full, as dockerd wants them; wrong usage is told without the list of all flags."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Where a subcommand leaves words over it is the one to ask, not the program.
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return options, rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="zonegate", description="A Docker Engine API that runs containers as zones"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_settings(commands.add_parser("serve", help="serve the Docker API"))
    _add_settings(
        commands.add_parser("doctor", help="say what this machine can do and what it lacks")
    )
    images = commands.add_parser("images", help="what is done with images besides docker")
    of_images = images.add_subparsers(dest="action", required=True)
    _add_settings(of_images.add_parser("verify", help="say whether all images are whole"))
    commands.add_parser(
        "spec",
        help="print the vmadm JSON that a `docker run` would create, without a daemon",
        usage="zonegate spec [--backend HOST] [--config FILE] [--data-root DIR] [--uuid UUID]"
        " [--image-config FILE | --image-manifest FILE | --image-type TYPE] [--image-uuid UUID]"
        " [docker run options] IMAGE [COMMAND] [ARG...]",
    )
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help=f"TOML file ({DEFAULT_CONFIG} if it is there)")
    add("-H", "--host", dest="hosts", action="append", metavar="URL", help="unix, tcp or fd")
    add("--data-root", type=Path, metavar="DIR", help="images, zones and volumes")
    add("--exec-root", type=Path, metavar="DIR", help="state that a reboot may lose")
    add("-p", "--pidfile", type=Path, metavar="FILE", help="where to write the process id")
    add("-G", "--group", metavar="GROUP", help="group of the unix socket (docker)")
    add("--name", metavar="NAME", help="tells instances on one machine apart (zonegate)")
    add("--backend", choices=("linux", "smartos"), help="the platform that runs the zones")
    add(
        "--smartos-host",
        metavar="ssh://USER@HOST",
        help="the global zone, where it is another machine's",
    )
    add("--registry-mirror", dest="registry_mirrors", action="append", metavar="URL")
    add("--insecure-registry", dest="insecure_registries", action="append", metavar="HOST|CIDR")
    add("-s", "--storage-driver", metavar="DRIVER", help="overlay2, btrfs or zfs")
    add("--storage-opt", dest="storage_opts", action="append", metavar="KEY=VALUE")
    add("-l", "--log-level", choices=tuple(_LEVELS))
    add("-D", "--debug", action="store_const", const="debug", dest="log_level")
    add("--label", dest="labels", action="append", metavar="KEY=VALUE")
    add("--dns", action="append", metavar="ADDRESS", help="name server of containers")
    add("--bip", metavar="CIDR", help="address and prefix of the default bridge")
    add("-b", "--bridge", metavar="NAME", help="bridge of the default network, or none")
    add(
        "--default-address-pool",
        dest="default_address_pools",
        action="append",
        metavar="base=CIDR,size=N",
    )
    add("--tls", action="store_const", const=True)
    add("--tlsverify", action="store_const", const=True)
    for name in ("--tlscacert", "--tlscert", "--tlskey"):
        add(name, type=Path, metavar="FILE")
    for limit in ("concurrent-downloads", "concurrent-uploads", "download-attempts"):
        add(f"--max-{limit}", type=int, metavar="N")
    add("--shutdown-timeout", type=int, metavar="SECONDS")


def _settings(flags: Mapping[str, Any]) -> Settings:
    from gateway.settings import AddressPool, load

    given = {
        key: value for key, value in flags.items() if key not in ("command", "action", "config")
    }
    if smartos_host := given.pop("smartos_host", None):
        given["smartos"] = {"host": smartos_host}
    if pools := given.get("default_address_pools"):
        given["default_address_pools"] = [AddressPool.parse(pool) for pool in pools]
    file = flags.get("config") or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return load(file=file, environment=os.environ, flags=given)


def _warn_of_unknown() -> None:
    from gateway.settings import unknown_names

    for name in unknown_names(os.environ):
        logging.getLogger(__name__).warning("%s in the environment is no setting", name)


def _start_logging(level: str) -> None:
    logging.basicConfig(
        level=_LEVELS[level], format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Requests are logged by our own app; these two speak of every connection.
    for name in ("aiohttp.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _serve(options: argparse.Namespace) -> int:
    with memory.importing():
        settings = _settings(vars(options))
        _start_logging(settings.log_level)
        _warn_of_unknown()
        from gateway.server import serve

    if os.geteuid() != 0 and not settings.smartos.host:
        # What is done over SSH takes the rights of the user there.
        raise InvalidParameter("zonegate serve needs root: it mounts, and makes namespaces")
    memory.tune_malloc()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings, lambda: _settings(vars(options))))
    return 0


def _loop_factory() -> Any:
    """uvloop where the extra `speed` is installed; it doubles requests a second on unix sockets."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _doctor(options: argparse.Namespace) -> int:
    from gateway.doctor import examine

    findings = asyncio.run(examine(_settings(vars(options))))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL' if finding.fatal else 'note'}  {finding.text}")
    return 1 if any(finding.fatal and not finding.ok for finding in findings) else 0


def _verify(options: argparse.Namespace) -> int:
    from gateway.verify import verify

    try:
        images, layers, faults = asyncio.run(verify(_settings(vars(options))))
    except PermissionError as error:
        raise InvalidParameter(f"cannot read {error.filename}: {error.strerror}") from error
    for fault in faults:
        print(f"FAIL  {fault}")
    print(f"{'FAIL' if faults else 'ok  '}  {images} images, {layers} layers, {len(faults)} faults")
    return 1 if faults else 0


def _spec(arguments: Sequence[str]) -> int:
    from gateway.preview import payload as spec
    from gateway.translate.run_arguments import parse

    request = parse(
        arguments,
        read_file=_read,
        environment=os.environ,
        extra_flags=_SPEC_FLAGS,
    )
    last = {name: values[-1] for name, values in request.extra.items()}
    flags: dict[str, Any] = {
        "config": Path(last["config"]) if "config" in last else None,
        "data_root": last.get("data-root"),
        "backend": last.get("backend"),
        "registry_mirrors": request.extra.get("registry-mirror"),
        "insecure_registries": request.extra.get("insecure-registry"),
    }
    payload = asyncio.run(
        spec(
            _settings(flags),
            request,
            image_config=_read(last["image-config"]).encode() if "image-config" in last else None,
            image_manifest=_read(last["image-manifest"]).encode()
            if "image-manifest" in last
            else None,
            image_type=last.get("image-type"),
            image_uuid=last.get("image-uuid"),
            uuid=last.get("uuid"),
        )
    )
    print(json.dumps(payload, indent=2, ensure_ascii=False))
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise InvalidParameter(f"open {path}: {error.strerror}") from error
