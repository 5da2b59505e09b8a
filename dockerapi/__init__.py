"""The Docker Engine API as bytes on a connection: routes, bodies, frames, errors.

Knows nothing of zones or images: what an operation does is asked of an `engine.Engine`.
"""
