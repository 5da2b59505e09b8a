"""What `docker version`, `info`, `login`, `system df` and `events` answer."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence

from dockerapi.engine import EventsQuery
from dockerapi.models.base import JSONObject
from dockerapi.models.system import AuthConfig
from gateway import logdrivers
from gateway.engine.disk import DiskUsage
from gateway.engine.events import Bus
from gateway.engine.roster import Roster
from gateway.settings import Settings
from gateway.translate import status
from gateway.zones.host import Host
from imgsources.catalog import Catalog
from imgsources.oci import default_platform
from imgsources.registry import RegistryClient
from imgsources.transport import Credentials

VERSION = "28.5.2"
"""The dockerd whose behaviour we show; tools compare it."""
API_VERSION = "1.51"
MINIMUM_API_VERSION = "1.24"
_INDEX = "https://index.docker.io/v1/"


class System:
    """The gateway as a whole.  `identity` is what /info calls ID."""

    def __init__(
        self,
        host: Host,
        catalog: Catalog,
        *,
        roster: Roster,
        bus: Bus,
        settings: Settings,
        registry: Callable[[AuthConfig | None], RegistryClient],
        disk: DiskUsage,
        identity: str,
        hostname: str,
    ) -> None:
        self._host = host
        self._catalog = catalog
        self._roster = roster
        self._bus = bus
        self._settings = settings
        self._registry = registry
        self._disk = disk
        self._identity = identity
        self._hostname = hostname

    def version(self) -> JSONObject:
        """Engine first among the components, as clients expect."""
        facts = self._host.facts
        common = {
            "ApiVersion": API_VERSION,
            "Arch": default_platform().architecture,
            "BuildTime": "",
            "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}",
            "KernelVersion": facts.kernel_version,
            "MinAPIVersion": MINIMUM_API_VERSION,
            "Os": "linux",
        }
        details = {**common, "Experimental": "false"}
        others = [
            {"Name": name, "Version": version, "Details": {"GitCommit": ""}}
            for name, version in facts.components
        ]
        engine = {"Name": "Engine", "Version": VERSION, "Details": details}
        return {
            "Platform": {"Name": "zonegate"},
            "Components": [engine, *others],
            "Version": VERSION,
            **common,
        }

    def reload(self, settings: Settings) -> None:
        """Show these settings from now on; the event has what dockerd tells of them."""
        self._settings = settings
        self._bus.emit(
            "daemon",
            "reload",
            self._identity,
            {
                "debug": "true" if settings.log_level == "debug" else "false",
                "insecure-registries": _json_list(settings.insecure_registries),
                "labels": _json_list(settings.labels),
                "max-concurrent-downloads": str(settings.max_concurrent_downloads),
                "max-concurrent-uploads": str(settings.max_concurrent_uploads),
                "max-download-attempts": str(settings.max_download_attempts),
                "name": self._hostname,
                "registry-mirrors": _json_list(settings.registry_mirrors),
                "shutdown-timeout": str(settings.shutdown_timeout),
            },
        )

    async def info(self) -> JSONObject:
        """What is known of the machine and of what is on it, now."""
        return self._counters() | self._machine() | self._limits() | self._configured()

    def _counters(self) -> JSONObject:
        words = [status.status(zone) for zone in self._roster.all()]
        running = words.count("running") + words.count("restarting")
        paused = words.count("paused")
        return {
            "ID": self._identity,
            "Containers": len(words),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(words) - running - paused,
            "Images": len(self._catalog.images()),
            "NEventsListener": self._bus.listeners,
            "NFd": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 (only counted)
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": status.go_time(time.time_ns()),
        }

    def _machine(self) -> JSONObject:
        facts = self._host.facts
        return {
            "Driver": facts.storage_driver,
            "DriverStatus": [list(pair) for pair in facts.status],
            "DockerRootDir": facts.root_dir,
            "CgroupDriver": facts.cgroup_driver,
            # As dockerd, left out where there are no cgroups.
            **({"CgroupVersion": facts.cgroup_version} if facts.cgroup_version else {}),
            "KernelVersion": facts.kernel_version,
            "OperatingSystem": facts.operating_system,
            "OSVersion": facts.os_version,
            "OSType": "linux",
            "Architecture": facts.architecture,
            "NCPU": facts.ncpu,
            "MemTotal": facts.mem_total,
            "Name": self._hostname,
            "Runtimes": {name: {"path": name} for name in facts.runtimes},
            "DefaultRuntime": facts.default_runtime,
            "SecurityOptions": list(facts.security_options),
            "Warnings": list(facts.warnings) or None,
            "InitBinary": "docker-init",
            "ContainerdCommit": {"ID": ""},
            "RuncCommit": {"ID": dict(facts.components).get(facts.default_runtime, "")},
            "InitCommit": {"ID": ""},
            "Isolation": "",
            # The rules of published ports and of the networks' limits; zones of SmartOS have rules of their own.
            **({"FirewallBackend": {"Driver": "nftables"}} if facts.platform == "linux" else {}),
        }

    def _limits(self) -> JSONObject:
        known = [
            "MemoryLimit",
            "SwapLimit",
            "CpuCfsPeriod",
            "CpuCfsQuota",
            "CPUShares",
            "CPUSet",
            "PidsLimit",
            "OomKillDisable",
        ]
        limits = self._host.facts.limits
        return {
            **{name: limits.get(name, False) for name in known},
            "IPv4Forwarding": limits.get("IPv4Forwarding", True),
            **({"KernelMemoryTCP": True} if limits.get("KernelMemoryTCP") else {}),
        }

    def _configured(self) -> JSONObject:
        settings = self._settings
        networks = sorted({network.driver for network in self._host.networks.list()})
        return {
            "Plugins": {
                "Volume": ["local"],
                "Network": networks,
                "Authorization": None,
                "Log": sorted({*self._host.facts.log_drivers, *logdrivers.available()} - {"none"}),
            },
            "Debug": settings.log_level == "debug",
            "LoggingDriver": "json-file",
            "IndexServerAddress": _INDEX,
            "RegistryConfig": _registry_config(settings),
            "GenericResources": None,
            "HttpProxy": _proxy("HTTP_PROXY"),
            "HttpsProxy": _proxy("HTTPS_PROXY"),
            "NoProxy": _proxy("NO_PROXY"),
            "Labels": list(settings.labels),
            "ExperimentalBuild": False,
            "ServerVersion": VERSION,
            "Swarm": {
                "NodeID": "",
                "NodeAddr": "",
                "LocalNodeState": "inactive",
                "ControlAvailable": False,
                "Error": "",
                "RemoteManagers": None,
            },
            # Containers run on without the gateway.
            "LiveRestoreEnabled": True,
            **_address_pools(settings),
            "CDISpecDirs": [],
        }

    async def auth(self, body: AuthConfig) -> JSONObject:
        """Unauthorized in dockerd's words."""
        credentials = Credentials(body.username, body.password, body.identitytoken)
        login = await self._registry(None).login(credentials, body.serveraddress)
        return {"Status": login.status, "IdentityToken": login.identity_token}

    async def disk_usage(self, kinds: frozenset[str]) -> JSONObject:
        """GET /system/df."""
        return await self._disk.of(kinds)

    async def events(self, query: EventsQuery) -> AsyncIterator[bytes]:
        """Past ones first."""
        return self._bus.stream(query)


def _json_list(texts: Sequence[str]) -> str:
    return json.dumps(list(texts), separators=(",", ":"), ensure_ascii=False)


def _proxy(name: str) -> str:
    """A proxy of the environment, its credentials hidden as dockerd hides them."""
    text = os.environ.get(name) or os.environ.get(name.lower(), "")
    return re.sub(r"^(\w+://)[^/@]*@", r"\1xxxxx:xxxxx@", text)


def _address_pools(settings: Settings) -> JSONObject:
    """Told of where the settings name some, as by dockerd."""
    pools = settings.default_address_pools
    if pools == type(settings).model_fields["default_address_pools"].default:
        return {}
    return {"DefaultAddressPools": [{"Base": pool.base, "Size": pool.size} for pool in pools]}


def _registry_config(settings: Settings) -> JSONObject:
    mirrors = [f"{mirror.rstrip('/')}/" for mirror in settings.registry_mirrors]
    index: JSONObject = {
        "docker.io": {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True}
    }
    cidrs = ["::1/128", "127.0.0.0/8"]
    for registry in settings.insecure_registries:
        if "/" in registry:
            cidrs.append(registry)
        else:
            index[registry] = {"Name": registry, "Mirrors": [], "Secure": False, "Official": False}
    return {"InsecureRegistryCIDRs": cidrs, "IndexConfigs": index, "Mirrors": mirrors or None}
