"""`python -m gateway` is `zonegate`."""

from gateway.cli import main

main()
