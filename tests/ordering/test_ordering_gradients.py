"""Per-example gradients by hooks, against one backward pass an example."""

import pytest
import torch
from ordering_tools import collated, examples, model, work

from holdfast.ordering.grand import grand
from holdfast.ordering.losses import example_losses
from holdfast.ordering.per_example import PerExample


def alone(made, row, v):
    """The squared norm and the product with ``v`` of one example's gradient, at B = 1."""
    made.requires_grad_(True)
    made.zero_grad()
    logits = made(input_ids=row["input_ids"][None]).logits[0, :-1]
    wanted = row["labels"][1:] != -100
    loss = torch.nn.functional.cross_entropy(logits[wanted], row["labels"][1:][wanted])
    loss.backward()
    grads = {n: p.grad for n, p in made.named_parameters()}
    made.requires_grad_(False)
    return sum(g.square().sum() for g in grads.values()), sum(
        (g * v[n]).sum() for n, g in grads.items()
    )


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2"])
def test_norms_and_products_are_those_of_a_loop(kind):
    made, rows = model(kind), examples(3)
    names = [n for n, _ in made.named_parameters()]
    torch.manual_seed(1)
    v = {n: torch.randn_like(p) for n, p in made.named_parameters()}
    read = PerExample(made, names)
    found = read(collated(rows), v)
    assert read.why is None  # by hooks
    for i, row in enumerate(rows):
        square, product = alone(made, row, v)
        assert torch.allclose(found.squares[i], square, rtol=1e-6)
        assert torch.allclose(found.dots[i], product, rtol=1e-6, atol=1e-9)


def test_the_loop_that_other_models_fall_back_on_gives_the_same():
    made, rows = model("llama"), examples(2)
    names = [n for n, _ in made.named_parameters() if "mlp" in n]
    v = {n: torch.ones_like(dict(made.named_parameters())[n]) for n in names}
    read = PerExample(made, names)
    fast, slow = read(collated(rows), v), read.one_by_one(collated(rows), v)
    assert torch.allclose(fast.squares, slow.squares)
    assert torch.allclose(fast.dots, slow.dots)


def test_no_weight_gradient_is_ever_formed():
    made, rows = model("tied"), examples(2)
    read = PerExample(made, [n for n, _ in made.named_parameters()])
    read(collated(rows))
    assert all(p.grad is None and not p.requires_grad for p in made.parameters())


def test_a_layer_that_hooks_misread_is_found_out():
    made, rows = model("llama"), examples(2)
    layer = made.model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda module, given, output: output * 2)
    # runs before ours, so that ours sees the doubled output: the gradient it reads is halved
    read = PerExample(made, [n for n, _ in made.named_parameters()])
    found = read(collated(rows))
    assert read.why is not None
    assert torch.allclose(found.squares, read.one_by_one(collated(rows)).squares)


def test_grand_does_not_depend_on_the_batch(tmp_path):
    made, rows = model("llama"), examples(5)
    whole = grand(work(made, rows, tmp_path / "a", batch_size=5))
    single = grand(work(made, rows, tmp_path / "b", batch_size=1))
    assert whole == pytest.approx(single, rel=1e-6)


def test_a_batch_without_an_answer_is_refused():
    made, rows = model("llama"), examples(2)
    rows[0]["labels"][:] = -100
    with pytest.raises(ValueError, match="no supervised token"):
        example_losses(made, collated(rows))
