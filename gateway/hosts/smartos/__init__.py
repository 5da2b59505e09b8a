"""The SmartOS host: zone specs given to vmadm, layers to zfs and imgadm, streams from zlogin; locally or over SSH."""
