"""Compare our HSTU and sampled softmax with numbers of the reference: one forward and backward pass a file.

    python -m benchmarks.parity.run FILE... [--device cuda]

prints a line a file, and exits with 1 where an error is above 1e-10:

    <file> hidden_error=<max abs> loss_error=<abs> grad_error=<max abs over all gradients>

A file (safetensors, float64, dropout off) holds the reference's weights, histories, L2-normalised output, loss and
gradients; metadata: num_heads, head_dim, num_layers, max_length, temperature.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from recalign.nn import HSTU, sampled_log_prob

TOLERANCE = 1e-10
EPS = 1e-6  # of the L2 norms


class Errors(NamedTuple):
    hidden: float
    loss: float
    grad: float


def main(files: list[Path], device: str = "cpu") -> int:
    worst = 0.0
    for file in files:
        errors = compare(file, device=device)
        worst = max(worst, *errors)
        print(f"{file} hidden_error={errors.hidden:.2e} loss_error={errors.loss:.2e} grad_error={errors.grad:.2e}")
    return int(not worst <= TOLERANCE)


def compare(file: Path, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Errors:
    """Largest absolute differences between the file's numbers and ours, worked out in `dtype` on a device."""
    metadata, tensors = load(file, device)
    encoder, item_VD = build(metadata, tensors, dtype)
    hidden_BLD, loss = run(encoder, item_VD, tensors, float(metadata["temperature"]))
    ours = gradients(loss, encoder, item_VD)
    expected = {name.removeprefix("grad."): tensor for name, tensor in tensors.items() if name.startswith("grad.")}
    return Errors(
        hidden=largest_difference(hidden_BLD, tensors["output.hidden_l2"]),
        loss=largest_difference(loss, tensors["loss.value"].squeeze()),
        grad=max(largest_difference(ours[name], tensor) for name, tensor in expected.items()),
    )


def load(file: Path, device: str) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    with safe_open(file, "pt", device) as handle:
        return handle.metadata(), {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118


def build(metadata: Mapping[str, str], tensors: dict[str, Tensor], dtype: torch.dtype) -> tuple[HSTU, Tensor]:
    """The encoder and the item embeddings with the file's weights."""
    encoder = HSTU(
        dim=tensors["weight.item_embedding"].shape[1],
        layers=int(metadata["num_layers"]),
        heads=int(metadata["num_heads"]),
        head_dim=int(metadata["head_dim"]),
        max_length=int(metadata["max_length"]),
        dropout=0.0,
    ).to(tensors["weight.item_embedding"].device, dtype)
    weights = {ours: tensors[f"weight.{theirs}"] for ours, theirs in names(encoder).items()}
    encoder.load_state_dict({name: turned(name, weight) for name, weight in weights.items()})
    return encoder, tensors["weight.item_embedding"].to(dtype).requires_grad_()


def run(encoder: HSTU, item_VD: Tensor, tensors: dict[str, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """L2-normalised states (B, L, D) and the weighted mean of the sampled softmax's losses."""
    ids_BL, length_B, time_BL = (tensors[f"input.{name}"] for name in ("item_ids", "lengths", "timestamps"))
    request_time_BL = torch.cat([time_BL[:, 1:], time_BL[:, -1:]], dim=1)
    hidden_BLD = F.normalize(encoder(F.embedding(ids_BL, item_VD), length_B, time_BL, request_time_BL), dim=-1, eps=EPS)

    catalogue_VD = F.normalize(item_VD, dim=-1, eps=EPS)
    predicts_BL = torch.arange(ids_BL.shape[1] - 1, device=length_B.device) < length_B[:, None] - 1
    target_T = ids_BL[:, 1:][predicts_BL]
    negative_TN = tensors["loss.negative_ids"]
    log_prob_T = sampled_log_prob(
        hidden_BLD[:, :-1][predicts_BL],
        catalogue_VD[target_T],
        catalogue_VD[negative_TN],
        target_T,
        negative_TN,
        scale=1 / temperature,
    )
    weight_T = tensors["loss.event_weights"].to(log_prob_T.dtype)
    return hidden_BLD, -(weight_T * log_prob_T).sum() / weight_T.sum()


def names(encoder: HSTU) -> dict[str, str]:
    """Our parameters' names -> the file's."""
    theirs = {"position": "position_embedding"}
    for i in range(len(encoder.layers)):
        theirs[f"layers.{i}.uvqk.weight"] = f"layer{i}.uvqk"
        for name in ("output.weight", "output.bias", "time_bias", "position_bias"):
            theirs[f"layers.{i}.{name}"] = f"layer{i}.{name}"
    return theirs


def gradients(loss: Tensor, encoder: HSTU, item_VD: Tensor) -> dict[str, Tensor]:
    """Gradients under the file's names and in its layout."""
    parameters = dict(encoder.named_parameters())
    item_grad_VD, *grads = torch.autograd.grad(loss, [item_VD, *parameters.values()])
    theirs = names(encoder)
    ours = {theirs[name]: turned(name, grad) for name, grad in zip(parameters, grads, strict=True)}
    return {"item_embedding": item_grad_VD, **ours}


def turned(name: str, tensor: Tensor) -> Tensor:
    """The file multiplies by uvqk from the right, `nn.Linear` by its transpose."""
    return tensor.T if name.endswith("uvqk.weight") else tensor


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)} differ")
    return (ours.detach().double() - theirs).abs().max().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    sys.exit(main(given.files, given.device))
