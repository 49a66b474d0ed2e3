"""A virtual environment of its own for each peer, made once by pip from its configured index."""

from __future__ import annotations

import subprocess
import venv
from importlib.metadata import version
from pathlib import Path

TORCH = f"torch=={version('torch').split('+')[0]}"  # the same as ours
REQUIREMENTS = {
    "rectools": ["rectools[torch]==0.19.*", TORCH],
    "torch-rechub": ["torch-rechub==0.9.*", TORCH],
    "obp": [TORCH, "matplotlib", "numpy", "pandas", "scikit-learn", "scipy", "seaborn", "tqdm"],
}
AS_IT_IS = {"obp": ["--no-deps", "--ignore-requires-python", "obp==0.5.7"]}
"""What pip is asked for besides: a peer that wants older versions of everything, and runs with these."""


def python_of(folder: Path, peer: str) -> Path:
    """The interpreter of a virtual environment that holds a peer; made where it is missing or another one.

    Raises:
        subprocess.CalledProcessError: pip could not install them; what it says has been printed.
    """
    requirements, more = REQUIREMENTS[peer], AS_IT_IS.get(peer, [])
    folder = folder.absolute()  # it is called from elsewhere
    made, wanted = folder / "requirements.txt", "\n".join([*requirements, *more]) + "\n"
    python = folder / "bin" / "python"
    if not made.exists() or made.read_text() != wanted:
        print(f"installing {', '.join([*requirements, *more])} into {folder} ...", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        for words in filter(None, (requirements, more)):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *words], check=True)
        made.write_text(wanted)  # last, so that a half-made environment is made again
    return python
