"""Log drivers and their options, checked in dockerd's words; addresses of drivers that send logs elsewhere.  Pure.

Options that every driver has (`mode`, `max-buffer-size`, `cache-*`) are looked at first, then the driver's own.
What dockerd finds only when the container starts (a size, a number) is found here as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dockerapi.errors import InvalidParameter, NotSupported
from gateway.translate import limits, log_details

Options = Mapping[str, str]

LOCAL_DRIVERS = ("json-file", "local", "none")
FORWARDING_DRIVERS = ("fluentd", "gelf", "journald", "syslog")
_ELSEWHERE = {
    "awslogs": "it needs a client of Amazon CloudWatch",
    "gcplogs": "it needs a client of Google Cloud Logging",
    "splunk": "it needs a client of Splunk's collector",
}
_SHARED = {"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}  # fmt: skip
_DETAILS = {"labels", "labels-regex", "env", "env-regex", "tag"}
_KNOWN = {
    "json-file": _DETAILS | {"max-size", "max-file", "compress"},
    "local": {"max-size", "max-file", "compress"},
    "journald": _DETAILS,
    "syslog": _DETAILS | {"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"},
    "gelf": _DETAILS | {"gelf-address", "gelf-compression-level", "gelf-compression-type", "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"},
    "fluentd": _DETAILS | {"fluentd-address", "fluentd-async", "fluentd-async-connect", "fluentd-async-reconnect-interval", "fluentd-buffer-limit", "fluentd-max-retries", "fluentd-read-timeout", "fluentd-request-ack", "fluentd-retry-wait", "fluentd-sub-second-precision", "fluentd-write-timeout"},
}  # fmt: skip
_FACILITIES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")  # fmt: skip
_SYSLOG_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_SYSLOG_SCHEMES = ("tcp", "tcp+tls", "udp", "unix", "unixgram")
_FLUENTD_PORT, _SYSLOG_PORT, _HIGHEST_PORT = 24224, 514, 65535
DEFAULT_BUFFER = 1 << 20
CACHE = {"max-size": "20m", "max-file": "5", "compress": "true"}
"""How the driver `local`, and the copy of what is sent elsewhere, are kept where nothing is said."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where logs go: `scheme` tcp, udp, unix, unixgram, tcp+tls; a `path` or `host` and `port`.

    All empty: the machine's own syslog.
    """

    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = ""


def check(driver: str, options: Options) -> None:
    """InvalidParameter in dockerd's words; NotSupported for drivers of services that need a client of their own."""
    if driver in _ELSEWHERE:
        raise NotSupported(
            f"log driver {driver} is not supported by zonegate: {_ELSEWHERE[driver]}"
        )
    if driver not in (*LOCAL_DRIVERS, *FORWARDING_DRIVERS):
        raise InvalidParameter(
            f'error looking up logging plugin {driver}: plugin "{driver}" not found'
        )
    if driver == "none":
        return  # as in dockerd, anything may be said of a log that is not kept
    _check_shared(options)
    for name in options:
        if name not in _KNOWN[driver] | _SHARED and driver != "gelf":
            raise InvalidParameter(_unknown(name, driver))
    _CHECKS[driver](options)
    log_details.check(options)


def _unknown(name: str, driver: str) -> str:
    if driver == "local":
        return f"unknown log opt '{name}' for log driver local"
    if driver == "gelf":
        return f'unknown log opt "{name}" for gelf log driver'
    return f"unknown log opt '{name}' for {driver} log driver"


def _check_shared(options: Options) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        _size(options["max-buffer-size"], "error parsing option max-buffer-size: ")
    if not _is_bool(options.get("cache-disabled", "false")):
        raise InvalidParameter(
            f"invalid value for option cache-disabled: {options['cache-disabled']}"
        )
    if "cache-max-size" in options:
        _size(options["cache-max-size"], "invalid value for cache-max-size: ")
    _count(options.get("cache-max-file", "1"))
    _bool(options.get("cache-compress", "true"))


def _check_files(options: Options) -> None:
    """json-file."""
    size = max_size(options)
    if size == 0:
        raise InvalidParameter("max-size must be a positive number")
    count = _count(options.get("max-file", "1"))
    if count < 1:
        raise InvalidParameter("max-file cannot be less than 1")
    if _bool(options.get("compress", "false")) and (count < 2 or size is None):
        raise InvalidParameter(
            "compress cannot be true when max-file is less than 2 or max-size is not set"
        )


def _check_local(options: Options) -> None:
    if "max-size" in options:
        _size(options["max-size"], f"invalid value for max-size: {options['max-size']}: ")
    count = _count(options.get("max-file", CACHE["max-file"]))
    if count < 0:
        raise InvalidParameter("max-file cannot be a negative number")
    text = options.get("compress", CACHE["compress"])
    if _bool(text, "error reading compress log option: ") and count <= 1:
        raise InvalidParameter("compression cannot be enabled when max file count is 1")


def _check_syslog(options: Options) -> None:
    syslog_address(options)
    facility(options)
    if options.get("syslog-format", "") not in _SYSLOG_FORMATS:
        raise InvalidParameter("Invalid syslog format")


def _check_gelf(options: Options) -> None:
    address = gelf_address(options)
    for name in options:
        if name not in _KNOWN["gelf"] | _SHARED:
            raise InvalidParameter(_unknown(name, "gelf"))
    is_tcp = address.scheme == "tcp"
    for name in ("gelf-compression-type", "gelf-compression-level"):
        if name not in options:
            continue
        if is_tcp:
            raise InvalidParameter("compression is only supported on UDP")
        is_kind = name.endswith("type") and options[name] in ("gzip", "zlib", "none")
        if not (is_kind or (name.endswith("level") and re.fullmatch(r"-1|\d", options[name]))):
            raise InvalidParameter(
                f'unknown value "{options[name]}" for log opt "{name}" for gelf log driver'
            )
    for name in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if name not in options:
            continue
        if not is_tcp:
            raise InvalidParameter(f'"{name}" is only valid for TCP')
        if not options[name].isdecimal():
            raise InvalidParameter(f'"{name}" must be a positive integer')


def _check_fluentd(options: Options) -> None:
    fluentd_address(options)
    if "fluentd-async" in options and "fluentd-async-connect" in options:
        raise InvalidParameter(
            "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect"
        )
    for name in ("async", "async-connect", "request-ack", "sub-second-precision"):
        _bool(options.get(f"fluentd-{name}", "false"))
    if "fluentd-buffer-limit" in options:
        _size(options["fluentd-buffer-limit"])
    for name in ("retry-wait", "async-reconnect-interval", "write-timeout", "read-timeout"):
        seconds(options.get(f"fluentd-{name}", "0"))
    if not (text := options.get("fluentd-max-retries", "0")).isdecimal():
        raise InvalidParameter(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    interval = seconds(options.get("fluentd-async-reconnect-interval", "0"))
    if interval and not 0.1 <= interval <= 10:
        raise InvalidParameter(
            "invalid value for fluentd-async-reconnect-interval: value "
            f'"{options["fluentd-async-reconnect-interval"]}" must be between 100ms and 10s'
        )


_CHECKS: Mapping[str, Callable[[Options], None]] = {
    "json-file": _check_files,
    "local": _check_local,
    "journald": lambda _: None,
    "syslog": _check_syslog,
    "gelf": _check_gelf,
    "fluentd": _check_fluentd,
}


# --- values


def max_size(options: Options) -> int | None:
    """Bytes of max-size; None where the file may grow."""
    text = options.get("max-size", "-1")
    return None if text in ("", "-1") else _size(text)


def buffer_size(options: Options) -> int | None:
    """Bytes that wait for a slow far end before lines are dropped; None in mode `blocking`."""
    if options.get("mode") != "non-blocking":
        return None
    return _size(options["max-buffer-size"]) if "max-buffer-size" in options else DEFAULT_BUFFER


def is_readable(driver: str, options: Options) -> bool:
    """Whether `docker logs` has something to read: no driver `none`, and the local copy not disabled."""
    if driver in FORWARDING_DRIVERS:
        return not is_true(options.get("cache-disabled", "false"))
    return driver != "none"


def facility(options: Options) -> int:
    """Of syslog, by name or number; `daemon` where nothing is said."""
    text = options.get("syslog-facility", "") or "daemon"
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if match := re.fullmatch(r"local([0-7])", text):
        return 16 + int(match[1])
    if text.isdecimal() and int(text) <= 23:
        return int(text)
    raise InvalidParameter("invalid syslog facility")


def syslog_address(options: Options) -> Address:
    """Of `syslog-address`; an empty one is the machine's own syslog."""
    text = options.get("syslog-address", "")
    if not text:
        return Address()
    scheme, rest = _scheme(text)
    if scheme not in _SYSLOG_SCHEMES:
        raise InvalidParameter(f"unsupported scheme: '{scheme}'")
    if scheme in ("unix", "unixgram"):
        return Address(scheme, path=rest)
    return _host_port(scheme, rest, _SYSLOG_PORT, text)


def gelf_address(options: Options) -> Address:
    """Of `gelf-address`, which must be there."""
    text = options.get("gelf-address", "")
    if not text:
        raise InvalidParameter("gelf-address is a required parameter")
    scheme, rest = _scheme(text)
    rest = rest.partition("/")[0]
    if scheme not in ("tcp", "udp"):
        raise InvalidParameter("gelf: endpoint needs to be TCP or UDP")
    if not re.search(r":[^\]:]+$", rest):
        raise InvalidParameter("gelf: please provide gelf-address as proto://host:port")
    return _host_port(scheme, rest, 0, text)


def fluentd_address(options: Options) -> Address:
    """Of `fluentd-address`: 127.0.0.1:24224 where nothing is said; tcp, tls and unix."""
    text = options.get("fluentd-address", "")
    if not text:
        return Address("tcp", "127.0.0.1", _FLUENTD_PORT)
    fault = f"invalid fluentd-address ({text}): "
    url = text if "://" in text else f"tcp://{text}"
    scheme, rest = _scheme(url)
    if scheme == "unix":
        if not rest:
            raise InvalidParameter(f"{fault}path is empty")
        return Address("unix", path=rest)
    if scheme not in ("tcp", "tls"):
        raise InvalidParameter(f"{fault}unsupported scheme: '{scheme}'")
    if "/" in rest:
        raise InvalidParameter(f"{fault}should not contain a path element")
    host, port = _split(rest)
    if port and not port.isdecimal():
        raise InvalidParameter(f'{fault}parse "{url}": invalid port ":{port}" after host')
    if port and int(port) > _HIGHEST_PORT:
        words = f'strconv.ParseUint: parsing "{port}": value out of range'
        raise InvalidParameter(f"{fault}invalid port: {words}")
    host, number = host or "127.0.0.1", int(port or _FLUENTD_PORT)
    return Address("tcp+tls" if scheme == "tls" else "tcp", host, number)


def _scheme(text: str) -> tuple[str, str]:
    """("", text) where there is none."""
    scheme, separator, rest = text.partition("://")
    return (scheme, rest) if separator else ("", text)


def _host_port(scheme: str, rest: str, default: int, text: str) -> Address:
    host, port = _split(rest)
    if not (port or str(default)).isdecimal():
        raise InvalidParameter(f'parse "{text}": invalid port ":{port}" after host')
    return Address(scheme, host, int(port or default))


def _split(rest: str) -> tuple[str, str]:
    """Host and port; brackets of an IPv6 address taken off."""
    if match := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", rest):
        return match[1], match[2] or ""
    host, _, port = rest.partition(":")
    return host, port


_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A duration as Go writes it: `1m30s`, `100ms`, `0`."""
    if text in ("", "0"):
        return 0.0
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise InvalidParameter(f'time: invalid duration "{text}"')
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))


def is_true(text: str) -> bool:
    """A truth value as Go's strconv reads it."""
    return text in ("1", "t", "T", "true", "TRUE", "True")


def _is_bool(text: str) -> bool:
    return is_true(text) or text in ("0", "f", "F", "false", "FALSE", "False")


def _bool(text: str, before: str = "") -> bool:
    if not _is_bool(text):
        raise InvalidParameter(f'{before}strconv.ParseBool: parsing "{text}": invalid syntax')
    return is_true(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d+", text):
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)


def _size(text: str, before: str = "") -> int:
    try:
        return limits.byte_size(text)
    except ValueError as error:
        raise InvalidParameter(f"{before}{error}") from error
