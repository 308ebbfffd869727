"""
tools/fast.py: four pieces of the transformer that take much of its time, each twice: as one would
first write it (plain_...), and faster.

tests/test_tools.py holds the two equal. README.md says why the fast ones are faster. model.py uses
the fast ones, and plain_attention where someone wants to look at the matrix of weights.

Shapes: B rows, H heads, T queries, S keys, D channels of a head.
"""
import torch
import torch.nn.functional as F

EPS = 1e-6  # added to the mean square, so that a row of zeros stays one

# ---------------------------------------------------------------------------------------------
# the norm


def plain_rms_norm(x, gain=None):
    """
    RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4): each row of x (..., C) scaled to a
    mean square of 1. In float32 at least.

      gain  (..., 1), of a shape that fits x: each row is multiplied by one of these numbers. (The
            gain of channels that is usual comes after, in model.py.)
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean_square = x.square().mean(-1, keepdim=True)
    y = x * (mean_square + EPS).rsqrt()
    return y if gain is None else y * gain


def rms_norm(x, gain=None):
    """What plain_rms_norm computes, with the derivative written out."""
    return RMSNorm.apply(x) if gain is None else RMSNormWithGain.apply(x, gain)


def inverse_root(x):
    """(mean(x x) + EPS) ** -.5 of each row of x (..., C) -> (..., 1)"""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # makes no tensor of squares
    return (length ** 2 / x.size(-1) + EPS).rsqrt()


class RMSNorm(torch.autograd.Function):
    """
    y = r x, where r = inverse_root(x) is one number a row. If g is the gradient of y, that of x is
    r (g - y mean(g y)).

    So the backward pass needs r and y only, and a gain of channels that y is multiplied by keeps y
    anyway. Autograd would keep x as well.
    """

    @staticmethod
    def forward(ctx, x):
        ctx.dtype = x.dtype
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        r = inverse_root(x)
        y = x * r
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        y, r = ctx.saved_tensors
        along = (g * y).mean(-1, keepdim=True)
        across = torch.addcmul(g, y, along, value=-1)  # g - y mean(g y)
        return (across * r).to(ctx.dtype)


class RMSNormWithGain(torch.autograd.Function):
    """
    y = gain r x, with a gain a row. The gradient of x is gain r (g - r x mean(g r x)), that of a
    gain the sum of g r x over all rows that it multiplies.

    gain and r are multiplied first, as they are small: so a gain is no pass over x.
    """

    @staticmethod
    def forward(ctx, x, gain):
        ctx.dtype = x.dtype
        # a copy, whatever x is: as a view it would keep all that it is a part of
        x = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        r = inverse_root(x)
        ctx.save_for_backward(x, r, gain)
        return x * (gain * r)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, r, gain = ctx.saved_tensors
        along = (g * x).mean(-1, keepdim=True) * r  # mean(g r x)
        across = torch.addcmul(g, x, r * along, value=-1)
        of_gain = (along * x.size(-1)).sum_to_size(gain.shape)
        return (across * (gain * r)).to(ctx.dtype), of_gain


# ---------------------------------------------------------------------------------------------
# rotary positions


def plain_rotate(x, rotary):
    """
    Rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34): each pair of neighbouring
    channels is a point in the plane, and is turned by the angle position times frequency.

    x (..., D); rotary (..., D / 2, 2): cosine and sine of each pair's angle -> (..., D)
    """
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)  # (..., D / 2) each
    cos, sin = rotary.unbind(-1)
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1)
    return turned.flatten(-2)


def rotate(x, rotary):
    """
    What plain_rotate computes. On a CPU the pairs are taken as complex numbers, of which the
    product turns one by the other's angle, in one pass over memory. A compiler, for a GPU, knows
    real numbers only, but makes one pass of the plain version by itself.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return plain_rotate(x, rotary)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))  # (..., D / 2)
    turned = pairs * torch.view_as_complex(rotary)
    return torch.view_as_real(turned).flatten(-2)


# ---------------------------------------------------------------------------------------------
# squared ReLU


def plain_squared_relu(x):
    """The activation of So et al. 2021 (Primer, arXiv 2109.08668)"""
    return F.relu(x).square()


def squared_relu(x):
    """What plain_squared_relu computes, with the derivative written out."""
    return SquaredReLU.apply(x)


class SquaredReLU(torch.autograd.Function):
    """The derivative of relu(x) ** 2 is 2 relu(x): autograd takes the square's and the ReLU's."""

    @staticmethod
    def forward(ctx, x):
        x = x.relu()
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        x, = ctx.saved_tensors
        return (g * x).mul_(2)


# ---------------------------------------------------------------------------------------------
# attention

SHORT = 512  # keys; with more, the fused kernel is the faster one in bfloat16 on a CPU too


def plain_attention(q, k, v, mask=None, scale=None):
    """
    Attention (Vaswani et al. 2017, arXiv 1706.03762, eq. 1) by the matrix of its weights.

      q      (B, H, T, D)
      k, v   (B, H, S, D)
      mask   (B or 1, 1, T, S) bool, True where a query sees a key; None: causal, and T = S
      scale  of the products of q and k; None: D ** -.5

    Returns y (B, H, T, D) and weights (B, H, T, S), which are softmax(scale q k').
    """
    T, D = q.shape[2:]
    S = k.size(2)
    if scale is None:
        scale = D ** -.5
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril()
    # a sum, as its derivative costs nothing; that of filling in -inf does
    hidden = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    logits = (q * scale) @ k.mT + hidden
    weights = logits.softmax(-1)
    return weights @ v, weights


def attention(q, k, v, mask=None, scale=None):
    """
    The y of plain_attention, with its arguments, by PyTorch's fused kernel, in which no T x S
    matrix ever exists. Only short rows in bfloat16 on a CPU go by the matrix: there the kernel is
    slow.

    Whoever pads q and k with zeros, which changes no logit, passes scale, as D is another then.
    """
    on_cpu = q.device.type == "cpu"
    in_bfloat16 = v.dtype == torch.bfloat16
    if on_cpu and in_bfloat16 and k.size(2) <= SHORT:
        y, _ = plain_attention(q, k, v, mask, scale)
        return y
    is_causal = mask is None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale)
