"""Files of the micro image: its initramfs, init scripts and configuration."""
