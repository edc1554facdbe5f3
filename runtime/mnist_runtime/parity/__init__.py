"""The command `mnist-parity`."""
