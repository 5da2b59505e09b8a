"""A SmartOS global zone for tests: the platform's programs as they behave, with Linux zones behind them.

    tests/fakes/bin/vmadm ...   one thin program under many names: hands its argv, environment and standard
                                streams (SCM_RIGHTS) to the process below, and ends with the code that it says
    python -m tests.fakes.globalzone FOLDER    that process: keeps pool, images and machines, runs zones by
                                the Linux host; FOLDER stands for / of the global zone
    programs/NAME.py            what NAME does: `async def main(gz, call) -> int`

What the real programs refuse is refused here, in their words.  `FOLDER/faults.json` makes a program fail or
hang for a test of what follows; see `faults.py`.
"""
