"""The daemon: Docker requests in, zones out."""
