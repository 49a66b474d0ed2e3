"""The kinds of pairs that there are: what each is made with, and what to say where none can be made."""

from __future__ import annotations

from typing import Literal

Pairing = Literal["logged", "sampled", "generated", "ensemble"]
NEEDS: dict[Pairing, dict[str, str]] = {
    "logged": {},
    "sampled": {},
    "generated": {"policy": "recommender"},
    "ensemble": {"policy": "recommender", "reward_model": "reward"},
}
"""The checkpoints that each kind of pair is made with, and whose they are."""

LOSERS: dict[Pairing, str] = {
    "logged": "of the same user below that mean beside it",
    "sampled": "drawn from the catalogue that the user had not met",
    "generated": "drawn from the policy that the user had not met",
    "ensemble": "whose interval lies below another's",
}
"""What each winner stands beside."""
REMEDIES: dict[Pairing, str] = {
    "logged": "use a reward that differs between a user's events, or pairs sampled",
    "sampled": "draw more data.candidates, or use a reward that differs between a user's events",
    "generated": "draw more data.candidates, or use a reward that differs between a user's events",
    "ensemble": "use a smaller data.width, or draw more data.candidates",
}
"""What may help where no pair is found."""
