"""Install Paymaster and everything it needs into `.venv`, from the hashed lock.

Standard library only: this is the first thing a bare machine runs. Safe to run twice and side by side
(a file lock), and free when nothing has changed (a stamp of the lock and of pyproject.toml).
Every reason for giving up is one sentence on stderr and exit status 1.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"


def refuse(sentence: str) -> None:
    print(f"paymaster: {sentence}", file=sys.stderr)
    sys.exit(1)


def check_machine() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):
        refuse(f"Python 3.11 or newer is needed, {sys.executable} is {version}; name another: make PYTHON=python3.12")
    if platform.system() not in ("Linux", "Darwin"):
        refuse(f"the embedded server has no build for {platform.system()}; Linux and macOS are supported.")
    if platform.system() == "Linux" and platform.libc_ver()[0] != "glibc":
        refuse("the embedded server needs glibc, and this Linux uses another C library (Alpine's musl?).")
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        refuse(f"the embedded server has no build for {platform.machine()}; x86_64 and arm64 are supported.")
    try:
        import ensurepip
        import venv
    except ImportError:
        refuse(f"this Python has no venv module; on Debian or Ubuntu: apt install python3-venv ({sys.executable}).")
    else:
        del ensurepip, venv


def fingerprint(*names: str) -> str:
    """What an installation depends on: this Python, this folder and these files."""
    digest = hashlib.sha256(sys.version.encode() + str(ROOT).encode())
    for name in names:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stdout[-2000:] + result.stderr[-4000:], file=sys.stderr)
        refuse(f"installing failed at '{' '.join(command[1:5])} …'; the lines above say why.")


def pip(*arguments: str) -> None:
    python = str(VENV / "bin" / "python")
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments)


def install_packages() -> None:
    print("paymaster: installing into .venv (once; about a minute)", file=sys.stderr)
    shutil.rmtree(VENV, ignore_errors=True)
    run(sys.executable, "-m", "venv", str(VENV))
    pip("--require-hashes", "--requirement", str(ROOT / "requirements.lock"))


def install_project() -> None:
    pip("--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def main() -> None:
    check_machine()
    if not os.access(ROOT, os.W_OK):
        refuse(f"the project folder {ROOT} cannot be written by this user.")
    with (ROOT / ".bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for install, file in ((install_packages, "requirements.lock"), (install_project, "pyproject.toml")):
            stamp, wanted = VENV / f"{file}.stamp", fingerprint(file)
            if not stamp.exists() or stamp.read_text() != wanted:
                install()
                stamp.write_text(wanted)


if __name__ == "__main__":
    main()
