"""onnxruntime, configured for small models inside other programs: one thread, no spinning, no telemetry, no logs."""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

# onnxruntime >= 1.30 reports usage and writes to the user's cache as soon as it is imported, unless this is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from mnist_runtime.cpus import usable_cpus
from mnist_runtime.errors import ArtifactError, OptionError, first_line

ENGINE_VERSION: str = ort.__version__
"""Version of onnxruntime."""

Provider: TypeAlias = str | tuple[str, dict[str, Any]]
"""Name of an execution provider, or a pair of its name and options."""

Run: TypeAlias = Callable[[Sequence[str], Mapping[str, Any], None], list[NDArray[np.float32]]]
"""Function from names of outputs, inputs by name, and no run options, to the outputs."""

_MOST_THREADS = 1024
_CPU = "CPUExecutionProvider"
_FATAL = 4  # every error is raised as an exception, so onnxruntime need not log it


def _name(provider: object) -> str:
    match provider:
        case str() as name:
            return name
        case (str() as name, dict()):
            return name
    raise OptionError(f'a provider is {provider!r}, and must be a name such as "{_CPU}", or (name, options)')


@dataclass(frozen=True)
class SessionSettings:
    """Settings of onnxruntime for one model."""

    threads: int | Literal["auto"] = 1
    """Threads that share the batches of a call; "auto" means every CPU that this process may use."""
    providers: Sequence[Provider] = (_CPU,)
    """Execution providers, the preferred one first."""
    session_options: ort.SessionOptions | None = None
    """Options of onnxruntime that replace our defaults: one thread per batch, no spinning, no logging."""

    def __post_init__(self) -> None:
        """Refuse values that onnxruntime would ignore or misread."""
        if self.threads != "auto" and not (type(self.threads) is int and 1 <= self.threads <= _MOST_THREADS):
            raise OptionError(
                f'threads is {self.threads!r}, and must be a whole number from 1 to {_MOST_THREADS:,}, or "auto"'
            )
        if not isinstance(self.session_options, ort.SessionOptions | None):
            raise OptionError(
                f"session_options is a {type(self.session_options).__name__}, and must be onnxruntime.SessionOptions"
            )
        if not isinstance(self.providers, list | tuple) or not self.providers:
            raise OptionError(f'providers is {self.providers!r}, and must be a list such as ["{_CPU}"]')
        missing = [name for name in map(_name, self.providers) if name not in ort.get_available_providers()]
        if missing:
            raise OptionError(
                f"this onnxruntime has no {', '.join(missing)}; it has {', '.join(ort.get_available_providers())}"
            )

    @property
    def thread_count(self) -> int:
        """Number of threads that share the batches of a call."""
        return usable_cpus() if self.threads == "auto" else self.threads

    def open(self, model: bytes, name: str) -> ort.InferenceSession:
        """Load a serialised model; `name` is for errors.

        Raises:
            OptionError: a provider cannot be used on this machine.
            ArtifactError: onnxruntime cannot load the model.
        """
        fallback = int(len(self.providers) > 1)  # with a single provider onnxruntime would print a warning on stdout
        asked = [_name(provider) for provider in self.providers]
        try:
            session = ort.InferenceSession(
                model, self._options(), providers=list(self.providers), enable_fallback=fallback
            )
        except Exception as error:  # onnxruntime's exceptions have no common base but Exception
            if asked != [_CPU] and _loads_on_cpu(model):
                raise _unusable(asked, first_line(error)) from error
            raise ArtifactError(
                f"{name} is not a complete ONNX model that onnxruntime {ENGINE_VERSION} can load "
                f"({first_line(error)}); give a .onnx file that mnist-export wrote"
            ) from error
        if missing := [provider for provider in asked if provider not in session.get_providers()]:
            raise _unusable(missing, _reason(missing[0]))  # onnxruntime would run on the CPU, and only log that
        return session

    def _options(self) -> ort.SessionOptions:
        if self.session_options is not None:
            return self.session_options
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # `threads` run a batch each, with less waiting for one another
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads burn no CPU
        options.log_severity_level = _FATAL
        return options


def _unusable(providers: Sequence[str], reason: str) -> OptionError:
    return OptionError(
        f"onnxruntime cannot use {', '.join(providers)} here ({reason}); install what it needs, or give {_CPU}"
    )


def _loads_on_cpu(model: bytes) -> bool:
    try:
        ort.InferenceSession(model, providers=[_CPU])
    except Exception:  # noqa: BLE001  # onnxruntime's exceptions have no common base but Exception
        return False
    return True


def _reason(provider: str) -> str:
    """Return why the library of a provider cannot be loaded, which onnxruntime only logs."""
    folder = Path(ort.__file__).parent / "capi"
    stem = f"onnxruntime_providers_{provider.removesuffix('ExecutionProvider').lower()}"
    for library in sorted(folder.glob(f"*{stem}.*")):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return first_line(error)
    return "no such device was found"


def raw_run(session: ort.InferenceSession) -> Run:
    """Return onnxruntime's C++ `run`, because its Python wrapper repeats our input checks; the wrapper as a fallback.

    The attribute is private. Without it, `decision_function` takes 22 % longer for one digit (onnxruntime 1.32.0).
    """
    run: Run = getattr(session, "_sess", session).run
    return run
