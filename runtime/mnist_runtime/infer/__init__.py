"""The command `mnist-infer`."""
