"""`python -m mnist_runtime` is `mnist-infer`."""

from mnist_runtime.infer.cli import infer

if __name__ == "__main__":
    infer(prog_name="mnist-infer")
