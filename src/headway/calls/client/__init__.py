"""What the app calls other services with; loaded when the app names one."""
