"""What goes wrong."""


class DeviceError(Exception):
    """The device, its driver or a kernel failed."""
