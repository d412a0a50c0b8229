"""Where a run comes from: command line, code, packages, machine. Secrets are removed before anything is written."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from postmortem import arithmetic
from postmortem.atomic import write_bytes

REDACTED = "<redacted>"
_PATCH_LIMIT = 2**20
_VALUE_LIMIT = 1_000
_GIT_TIMEOUT_S = 10.0
_ALLOWED = (
    "CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUDA_DEVICE_MAX_CONNECTIONS", "CUBLAS_WORKSPACE_CONFIG",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "KMP_AFFINITY", "PYTHONHASHSEED", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "GROUP_RANK", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_PROCID",
    "SLURM_RESTART_COUNT", "TOKENIZERS_PARALLELISM", "XLA_FLAGS",
)  # fmt: skip
_ALLOWED_PREFIXES = ("NCCL_", "GLOO_", "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "CUDNN_", "FSDP_", "TRITON_")
_SECRET_WORDS = frozenset((
    "key", "apikey", "token", "secret", "password", "passwd", "passphrase", "pwd", "credential", "credentials", "auth",
    "bearer", "dsn", "cookie",
))  # fmt: skip
_KNOWN_SECRETS = re.compile(
    r"\b(?:sk|pk|rk)-[\w-]{16,}|\bhf_\w{16,}|\bgh[opsur]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abprs]-[\w-]{10,}|\bA(?:KIA|SIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\bwandb_v1_\w{16,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END[^\n]*|\Z)"
)
_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"""((?:[\w.-]*[_.-])?(?:api_?key|token|secret|password|passwd|credentials?)["']?\s*[:=]\s*["']?)([^\s"',;)]{6,})""",
    re.IGNORECASE,
)


def provenance(run: Path, attempt: int) -> dict[str, Any]:
    """`command`, `git`, `packages` and `variables` for run.json; the uncommitted patch is saved beside it."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(main).resolve().parent if main else Path.cwd()
    head = _git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD")  # git runs while the packages are read
    patch = _git(folder, "diff", "--no-ext-diff", "--no-textconv", "HEAD")
    return {
        "command": redacted_command([sys.executable, *sys.argv]),
        "packages": packages(),
        "variables": variables(os.environ),
        **_git_facts(run, attempt, _answer(head), _answer(patch)),
    }


def environment() -> dict[str, Any]:
    """What the bits of a run depend on besides its config: versions, platform, processors, kernels and threads."""
    versions: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": platform.machine(),
        "cpu_count": os.cpu_count(),
    }
    for package in ("torch", "numpy", "xxhash"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions | arithmetic.measure_arithmetic()


def host() -> str:
    """Name of this machine."""
    return socket.gethostname()


def device() -> str | None:
    """The accelerator that this process uses, if that is known without initializing one; else None."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return named_device(f"cuda:{torch.cuda.current_device()}")


def named_device(name: str) -> str:
    """`cuda:3` with the model of the device, if torch knows it."""
    torch = sys.modules.get("torch")
    if torch is not None and name.startswith("cuda"):
        return f"{name} {torch.cuda.get_device_name(name)}"
    return name


def packages() -> dict[str, str]:
    """Version of every installed distribution, by name."""
    facts = (dist.metadata for dist in metadata.distributions())  # once each: reading them is what takes time
    versions = {str(package["Name"]): str(package["Version"]) for package in facts if package["Name"]}
    return dict(sorted(versions.items(), key=lambda item: item[0].lower()))


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The allow-listed environment variables that are set."""
    return {
        name: scrubbed(value, environ)[:_VALUE_LIMIT]
        for name, value in sorted(environ.items())
        if (name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)) and not is_secret_name(name)
    }


def is_secret_name(name: str) -> bool:
    """Whether a flag, key or variable of this name holds a secret, judged by the words of the name."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    return not _SECRET_WORDS.isdisjoint(words)


def redacted_command(arguments: Iterable[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The command line without secrets: values of secret flags, and texts that look like secrets, are replaced."""
    shown: list[str] = []
    secret_follows = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and is_secret_name(name):
            shown.append(f"{name}={REDACTED}" if value else argument)
        elif secret_follows and not argument.startswith("--"):
            shown.append(REDACTED)
        else:
            shown.append(scrubbed(argument, environ))
        secret_follows = argument.startswith("-") and not equals and is_secret_name(argument)
    return shown


def redacted(config: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """A nested config without secrets: texts under secret names, and texts that look like secrets, are replaced."""
    if isinstance(config, Mapping):
        return {
            str(key): REDACTED
            if isinstance(value, str) and value and is_secret_name(str(key)) and not value.startswith("<")
            else redacted(value, environ)
            for key, value in cast(Mapping[object, object], config).items()
        }
    if isinstance(config, (list, tuple)):
        return [redacted(value, environ) for value in cast(list[object], config)]
    return scrubbed(config, environ) if isinstance(config, str) else config


def scrubbed(text: str, environ: Mapping[str, str]) -> str:
    """`text` without values of secret environment variables, known shapes of keys, and passwords in URLs."""
    for name, value in environ.items():
        if len(value) >= 8 and value in text and is_secret_name(name):
            text = text.replace(value, REDACTED)
    return _IN_URL.sub(rf"\1{REDACTED}@", _KNOWN_SECRETS.sub(REDACTED, text))


def _git(folder: Path, *words: str) -> subprocess.Popen[bytes] | None:
    """Start git, without running programs that a repository's configuration names; None if git is not installed."""
    guards = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks")
    quiet = subprocess.DEVNULL
    try:
        command = ["git", "-C", str(folder), *guards, *words]
        return subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet)
    except OSError:
        return None


def _answer(git: subprocess.Popen[bytes] | None) -> bytes | None:
    """The output of git; None if it fails or takes too long."""
    if git is None:
        return None
    with git:
        try:
            output, _ = git.communicate(timeout=_GIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            git.kill()
            return None
    return output if git.returncode == 0 else None


def _git_facts(run: Path, attempt: int, head: bytes | None, patch: bytes | None) -> dict[str, Any]:
    """`git` for run.json, from `head` (commit and branch, a line each) and the uncommitted patch, which is saved beside
    run.json; empty outside a repository or without git."""
    if head is None:
        return {}
    commit, _, branch = head.decode("utf-8", "replace").strip().partition("\n")
    facts: dict[str, Any] = {"commit": commit, "branch": branch}
    if patch is None:
        return {"git": facts}
    facts["uncommitted_bytes"] = len(patch)
    if patch:
        text = _ASSIGNED.sub(rf"\1{REDACTED}", scrubbed(patch[:_PATCH_LIMIT].decode("utf-8", "replace"), os.environ))
        name = "code.patch" if attempt == 0 else f"code-{attempt}.patch"
        write_bytes(run / name, text.encode("utf-8", "replace"))
        facts |= {"patch": name, "patch_truncated": len(patch) > _PATCH_LIMIT}
    return {"git": facts}
