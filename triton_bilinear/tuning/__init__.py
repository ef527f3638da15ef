"""Devices, ahead-of-time compilation, and what else looks at kernels from outside. Nothing here touches a GPU."""
