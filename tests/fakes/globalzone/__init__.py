"""A SmartOS global zone for tests: the platform's programs as they behave, with Linux zones behind them.

    tests/fakes/bin/vmadm ...   one thin program under many names: hands its argv, environment and standard
                                streams (SCM_RIGHTS) to the process below, and ends with the code that it says
    python -m tests.fakes.globalzone FOLDER    that process: keeps pool, images and machines, runs zones by
                                the Linux host; FOLDER stands for / of the global zone
    programs/NAME.py            what NAME does: `async def main(gz, call) -> int`
    process.py                  `start(folder)` for tests: the process, its environment, a gateway's settings, faults

    gz.py           what the programs share
    pool.py         zpool zones                       properties.py  the strict check of vmadm's payloads
    machines.py     create, update, delete, events    payload.py     a payload -> the object of a new machine
    machine.py      one of them                       update.py      the object after an update
    boots.py        from its boot to its end          inner.py       the object -> what the Linux host runs
    dockerinit.py   checks, log, codes                objects.py     changes of objects, filters of lookup
    vmadmd.py       restart policies                  storage.py     datasets, volumes, disks of a machine
    zoneadmd.py     streams and stdio.log             configfiles.py hosts, hostname, resolv.conf, metadata.json
    console.py      console.log of full zones         zfd.py         streams before the program is there
    datalinks.py    vnics and addresses, as files     stubs.py       etherstubs as bridges of this computer

What the real programs refuse is refused here, in their words.  `FOLDER/faults.json` makes a program fail or
hang for a test of what follows; see `faults.py`.
"""
