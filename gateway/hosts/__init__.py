"""The platforms that run zones.  A module here is shared by platforms; a package is one platform."""
