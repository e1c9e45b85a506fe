"""Products of 16-bit tensors in float32, against those in float64."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from tt_edge.compile import half_products
from tt_edge.compile.half_products import float32_products


def tensors(dtype, *shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


PRODUCTS = {
    "linear": (lambda x, w, b: functional.linear(x, w, b), ((2, 9, 256), (300, 256), (300,))),
    "linear, bias by name": (lambda x, w, b: functional.linear(x, w, bias=b), ((2, 9, 256), (300, 256), (300,))),
    "operator": (lambda x, y: x @ y, ((2, 64, 300), (2, 300, 64))),
    "method": (lambda x, y: x.matmul(y), ((2, 64, 300), (2, 300, 64))),
    "bmm": (lambda x, y: torch.bmm(x, y), ((2, 64, 300), (2, 300, 64))),
    "convolution": (lambda x, w, b: functional.conv2d(x, w, b, stride=4), ((1, 3, 64, 64), (512, 3, 4, 4), (512,))),
    "attention": (
        lambda q, k, v, mask: functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.2),
        ((1, 4, 128, 32), (1, 4, 128, 32), (1, 4, 128, 32), (1, 1, 128, 128)),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PRODUCTS)
def test_the_product_is_rounded_once(monkeypatch, dtype, name):
    monkeypatch.setattr(half_products, "_SMALL", 1000)
    function, shapes = PRODUCTS[name]
    given = tensors(dtype, *shapes)
    exact = function(*(each.double() for each in given))
    with float32_products():
        found = function(*given)
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-3 * float(exact.abs().max()))


def test_a_large_weight_is_converted_in_parts(monkeypatch):
    given = tensors(torch.float16, (3, 256), (1000, 256), (1000,))
    with float32_products():
        whole = functional.linear(*given)
        monkeypatch.setattr(half_products, "_PART", 1 << 14)
        torch.testing.assert_close(functional.linear(*given), whole, rtol=0, atol=0)
        torch.testing.assert_close(functional.linear(*given[:2]), functional.linear(*given[:2], None), rtol=0, atol=0)


def test_a_sum_beyond_the_type_overflows_as_before():
    x, w = torch.full((1, 1024), 100.0, dtype=torch.float16), torch.full((300, 1024), 100.0, dtype=torch.float16)
    with float32_products():
        assert functional.linear(x, w).isinf().all()


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float16, torch.float32)])
def test_others_are_left_to_pytorch(dtypes):
    (x,), (w,) = tensors(dtypes[0], (3, 256)), tensors(dtypes[1], (1000, 256))

    def run():
        try:
            return functional.linear(x, w)
        except RuntimeError as error:
            return str(error)

    plain = run()
    with float32_products():
        found = run()
    assert torch.equal(plain, found) if isinstance(plain, torch.Tensor) else plain == found


def test_a_given_output_is_written(monkeypatch):
    monkeypatch.setattr(half_products, "_SMALL", 1000)
    x, y = tensors(torch.float16, (2, 64, 300), (2, 300, 64))
    out, expected = torch.zeros(2, 64, 64, dtype=torch.float16), torch.bmm(x, y)
    with float32_products():
        assert torch.bmm(x, y, out=out) is out
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("part", [half_products._PART, 1 << 14])
@pytest.mark.parametrize(
    ("bias", "message"), [(torch.zeros(1000), "dtype"), (torch.zeros(999, dtype=torch.float16), "size")]
)
def test_what_pytorch_refuses_is_refused(monkeypatch, part, bias, message):
    monkeypatch.setattr(half_products, "_PART", part)
    x, weight = tensors(torch.float16, (3, 256), (1000, 256))
    with float32_products(), pytest.raises(RuntimeError, match=message):
        functional.linear(x, weight, bias)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(64, 64, dtype=torch.float16)

    def forward(self, x):
        x = self.inner(x)[None, None]
        return functional.scaled_dot_product_attention(x, x, x, is_causal=True) @ x.mT


@pytest.mark.parametrize(
    "trace", [lambda model, x: torch.export.export(model, (x,)), lambda model, x: make_fx(model)(x)]
)
def test_a_traced_model_is_as_without_it(monkeypatch, trace):
    """Also where a model would be traced within it, which no command does."""
    monkeypatch.setattr(half_products, "_SMALL", 1000)
    model, (x,) = Model().eval(), tensors(torch.float16, (64, 64))
    with torch.no_grad():
        plain = trace(model, x)
        with float32_products():
            found = trace(model, x)
    assert str(found.graph) == str(plain.graph)
    assert "float32" not in str(found.graph)
