"""`python -m mnist_train` is `mnist-train`."""

from mnist_train.cli import train

train()
