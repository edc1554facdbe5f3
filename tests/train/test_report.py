"""Reports and trackers of a training run."""

import re
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch

from mnist_train.data.batches import InMemory
from mnist_train.models import MLP, MNISTLogistic
from mnist_train.report import examine
from mnist_train.trackers import first_weights, weight_images


def test_a_report_consists_of_a_page_and_its_pictures(run, few, tmp_path):
    pictures = {"curves.png", "confusion.png", "samples.png", "templates.png", "errors.png"}
    folder = tmp_path / "report"
    result = run("mnist-train", "--data", few, "--output-dir", tmp_path, "--report", folder)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in folder.iterdir()} == pictures | {"index.html"}
    page = (folder / "index.html").read_text()
    assert set(re.findall('src="(.+?)"', page)) == pictures
    for name in pictures:
        png = (folder / name).read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG"), name
        assert min(width, height) > 400, name


def test_the_worst_errors_come_first_and_the_confusions_add_up(validation):
    torch.manual_seed(0)
    model = MNISTLogistic()
    x, y = validation.tensors()
    outcome = examine(model, InMemory(x, y))
    with torch.no_grad():
        probabilities = torch.softmax(model(x), dim=1)
    sure, said = probabilities.max(dim=1)
    assert outcome.confusion.sum() == 10_000
    assert np.trace(outcome.confusion) == int((said == y).sum())
    assert outcome.confusion[3, 5] == int(((y == 3) & (said == 5)).sum())
    assert outcome.captions[0][2] == sure[said != y].max().item()
    assert [caption[2] for caption in outcome.captions] == sorted((c[2] for c in outcome.captions), reverse=True)
    assert all(label != said for label, said, _ in outcome.captions)


def test_positive_weights_are_red_and_negative_ones_blue():
    model = MNISTLogistic()
    with torch.no_grad():
        model.lin.weight.zero_()
        model.lin.weight[3, 0], model.lin.weight[3, 1] = 1.0, -1.0
    images = weight_images(model)
    assert images.shape == (10, 28, 28, 3)
    assert images[3, 0, :3].tolist() == [[255, 0, 0], [0, 0, 255], [255, 255, 255]]
    assert first_weights(MLP()).shape == (10, 28, 28)
    assert weight_images(torch.nn.Conv2d(1, 1, 3)).shape == (0, 28, 28, 3)


def test_tensorboard_shows_curves_weights_and_digits(run, few, tmp_path):
    result = run("mnist-train", "--data", few, "--output-dir", tmp_path, "--tracker", "tensorboard")
    assert result.returncode == 0, result.stderr
    script = (
        "import sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as A\n"
        "a = A(sys.argv[1], size_guidance={'scalars': 0}); a.Reload(); t = a.Tags()\n"
        "print(sorted(t['scalars']), sorted(t['images']), len(a.Scalars('loss/train_curve')))"
    )
    read = subprocess.run([sys.executable, "-c", script, tmp_path / "tensorboard"], capture_output=True, check=True)
    for name in (b"valid_loss", b"valid_accuracy", b"train_loss", b"'weights'", b"'digits'"):
        assert name in read.stdout
    assert read.stdout.split()[-1] == b"64"  # 32 steps an epoch, a point each


def test_wandb_logs_offline(run, few, tmp_path):
    offline = {"WANDB_MODE": "offline"}
    result = run("mnist-train", "--data", few, "--output-dir", tmp_path, "--tracker", "wandb", env=offline)
    assert result.returncode == 0, result.stderr
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = log.read_bytes()
    assert b"valid_accuracy" in content
    assert b"batch_size" in content
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/weights*.png"))


def test_a_tracker_that_cannot_start_is_refused_in_a_sentence(run, few, tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    options = ("mnist-train", "--data", few, "--output-dir", tmp_path, "--tracker")
    for tracker, sentence in (("tensorboard", "cannot write"), ("wandb", "wandb cannot start (")):
        result = run(*options, tracker, env={"HOME": str(tmp_path), "WANDB_MODE": "online"})
        assert result.returncode == 1
        assert result.stderr.decode().splitlines()[-1].startswith(f"Error: {sentence}")
        assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("package", "flags"),
    [
        ("tensorboard", ("--tracker", "tensorboard")),
        ("wandb", ("--tracker", "wandb")),
        ("matplotlib", ("--report", "report")),
        ("matplotlib", ("--model", "cnn")),
    ],
)
def test_a_missing_package_is_named_before_any_work(run, tmp_path, package, flags):
    """A package of that name in the current folder that cannot be imported hides the real one."""
    (tmp_path / f"{package}.py").write_text("raise ImportError('not installed')")
    result = run("python", "-m", "mnist_train", *flags, "--output-dir", tmp_path, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout == b""
    assert f"run: pip install {package}".encode() in result.stderr
    assert result.stderr.count(b"\n") == 1
