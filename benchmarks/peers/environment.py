"""A virtual environment of its own for each peer, made once by pip from its configured index."""

from __future__ import annotations

import subprocess
import venv
from importlib.metadata import version
from pathlib import Path

TORCH = f"torch=={version('torch').split('+')[0]}"  # the same as ours
REQUIREMENTS = {
    "rectools": ["rectools[torch]==0.19.*", TORCH],
}


def python_of(folder: Path, peer: str) -> Path:
    """The interpreter of a virtual environment that holds a peer; made where it is missing or another one.

    Raises:
        subprocess.CalledProcessError: pip could not install them; what it says has been printed.
    """
    requirements = REQUIREMENTS[peer]
    folder = folder.absolute()  # it is called from elsewhere
    made, wanted = folder / "requirements.txt", "\n".join(requirements) + "\n"
    python = folder / "bin" / "python"
    if not made.exists() or made.read_text() != wanted:
        print(f"installing {', '.join(requirements)} into {folder} ...", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        made.write_text(wanted)  # last, so that a half-made environment is made again
    return python
