"""What the app uses of a sharded or plain database. Standard library and the driver in use; no control plane."""
