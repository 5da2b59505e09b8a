"""The embedded Linux host: zone specs run with conmon, crun, overlayfs, bridges and cgroups.

A file here is a tool of the platform:

    bundle      spec -> config.json; its parts: machine, process, mounts, devices, seccomp (seccomp_profile)
    rooted      paths inside a zone's root, never outside it
    users       who a zone's process is, by the zone's own passwd and group
    etcfiles    /etc/hosts, hostname, resolv.conf
    cgroups     freezer, out-of-memory counts, removal, on v1, v2 and hybrid
    logs        conmon's log files -> docker logs; k8sfile is their format, growth tells of new lines
    volumes     the driver `local`
"""
