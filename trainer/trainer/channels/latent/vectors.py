"""torch's arrays as the wire's, and back; the loss of a service as a loss that backpropagates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.tensors import DType, to_tensor
from shared.tensors import Tensor as WireTensor
from shared.wire_latents import LatentLossReply

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def to_wire(tensor: Tensor, dtype: DType = "float32") -> WireTensor:
    """Pack an array. Raises ValueError if a value is not finite."""
    held = tensor.detach().to("cpu", _DTYPES[dtype]).contiguous()
    return to_tensor(bytes(held.flatten().view(torch.uint8).numpy()), dtype=dtype, shape=list(held.shape))


def from_wire(tensor: WireTensor) -> Tensor:
    """Return the array in float32, on the CPU."""
    raw = np.frombuffer(bytearray(tensor.to_bytes()), dtype=np.uint8)
    return torch.from_numpy(raw).view(_DTYPES[tensor.dtype]).reshape(tensor.shape).float()


class _TeacherLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, bop: Tensor, eop: Tensor, reply: LatentLossReply) -> Tensor:
        assert reply.gradient is not None
        assert reply.bop_gradient is not None
        assert reply.eop_gradient is not None
        ctx.gradients = [
            from_wire(found).to(leaf.device, leaf.dtype)
            for found, leaf in (
                (reply.gradient, latents),
                (reply.bop_gradient, bop),
                (reply.eop_gradient, eop),
            )
        ]
        return torch.tensor(reply.loss, dtype=torch.float32, device=latents.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (*(grads[0].to(found.dtype) * found for found in ctx.gradients), None)


def teacher_loss(latents: Tensor, bop: Tensor, eop: Tensor, reply: LatentLossReply) -> Tensor:
    """Return the service's loss as a scalar whose gradient is the one the service sent.

    latents  [N, K, D]; bop, eop [D]: what the reply is about
    """
    found: Tensor = _TeacherLoss.apply(latents, bop, eop, reply)
    return found
