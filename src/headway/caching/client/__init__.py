"""What the app uses of its caches; loaded when the app names one."""
