"""Python beside the program `osp`."""
