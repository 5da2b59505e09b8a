"""The platforms that run zones.  A module here is shared by platforms; a package is one platform.

Nothing is imported here: the layer writer is a program of its own and must start fast.
"""
