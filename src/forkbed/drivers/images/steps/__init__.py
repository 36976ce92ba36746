"""Shell steps of an image build. Each runs as the child of `unshare` in mount and PID namespaces of its own, so
that nothing of it (mounts, loop devices, processes) outlives it, however it ends."""
