"""Python programs that use the program `osp`."""
