"""A made-up shop's log, to try recalign on: a world with text ids, titles, categories, dates and stars."""

from pathlib import Path

import numpy as np
import polars as pl

from recalign.data.simulation.world import Simulated, World
from recalign.errors import InputError
from recalign.files import atomic_write

OPENED = 1_767_225_600  # 2026-01-01, in seconds since 1970; the log covers 215 days
SOLD = {
    "lighting": ("desk lamp", "floor lamp", "lantern", "candle holder", "string lights", "night light"),
    "kitchen": ("kettle", "skillet", "teapot", "chopping board", "mixing bowl", "pepper mill"),
    "garden": ("watering can", "bird feeder", "planter", "trowel", "garden bench", "hose reel"),
    "furniture": ("armchair", "bookcase", "side table", "stool", "wardrobe", "coat rack"),
    "bath": ("bath towel", "soap dish", "bath mat", "mirror", "laundry basket", "robe"),
    "office": ("notebook", "fountain pen", "desk tray", "paper knife", "wall clock", "calendar"),
    "toys": ("jigsaw", "kite", "spinning top", "train set", "board game", "puppet"),
    "outdoors": ("tent", "backpack", "flask", "hammock", "sleeping bag", "camp stove"),
}
"""Categories, one for each latent dimension of an item, and the things sold in it."""

STYLES = ("Oak", "Steel", "Linen", "Green", "Classic", "Folding", "Travel", "Small", "Large", "Nordic", "Retro", "Blue")


def shop(seed: int = 0) -> World:
    """The world behind a shop: half of the items of the default world, fewer events, and clearer stars."""
    return World(users=400, items=200, events=12_000, noise=0.4, generosity=0.4, habit=1.0, fashion=2.0, seed=seed)


def tables(simulated: Simulated) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A shop's events (customer, product, time, stars) and its products (product, title, category).

    Stars are whole numbers from 1 to 5, and null where the customer gave none. A product's category is the latent
    dimension in which it stands out, so customers have tastes among categories.
    """
    first, start = simulated.events, simulated.events["timestamp"].min()
    events = first.select(
        customer=pl.format("C-{}", pl.col("user").cast(pl.String).str.zfill(4)),
        product=pl.format("P-{}", pl.col("item").cast(pl.String).str.zfill(3)),
        time=pl.from_epoch(pl.col("timestamp") - start + OPENED).dt.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
        stars=pl.col("reward").round().clip(1, 5).cast(pl.Int64),
    )
    categories = np.array(list(SOLD))[simulated.people.position_ID.argmax(axis=1)]
    names = {category: iter([f"{style} {thing}" for style in STYLES for thing in SOLD[category]]) for category in SOLD}
    sold = zip(simulated.items, categories, strict=True)
    titles = [next(names[category], f"Product {item}") for item, category in sold]
    products = pl.DataFrame({"product": [f"P-{item:03}" for item in simulated.items], "title": titles})
    return events, products.with_columns(category=pl.Series(categories))


def write(simulated: Simulated, file: Path) -> Path:
    """Write a shop's events to `file`, a CSV, and its products beside it: ``shop.csv``, ``shop-products.csv``.

    Raises:
        InputError: one of them exists, and is not a shop's.
    """
    beside = file.with_name(f"{file.stem}-products.csv")
    written = dict(zip((file, beside), tables(simulated), strict=True))
    for path, frame in written.items():
        if path.is_file() and not path.read_bytes().startswith(",".join(frame.columns).encode()):
            raise InputError("this file was not written by --shop: it is kept", where=str(path), remedy="name another")
    for path, frame in written.items():
        with atomic_write(path) as temporary:
            frame.write_csv(temporary)
    return beside
