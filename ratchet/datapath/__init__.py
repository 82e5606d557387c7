"""Interfaces in the kernel: the only package that speaks netlink."""
