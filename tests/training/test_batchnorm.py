"""Two processes with a share of the batch each are one process with all of it, to the derivative of the derivative."""

from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from robustdeq.models import fingerprint
from robustdeq.training.batchnorm import SynchronizedBatchNorm2d, apart, separated, synchronized

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.xdist_group("batchnorm")]
SHARES = {"even": (3, 3), "uneven": (2, 5)}
Results = dict[str, Any]


def network() -> nn.Sequential:
    """Batch normalisations with every setting there is."""
    torch.manual_seed(1)
    first, second = nn.BatchNorm2d(4, momentum=0.3), nn.BatchNorm2d(5, affine=False, momentum=None)
    third = nn.BatchNorm2d(2, eps=0.1, track_running_stats=False)
    layers = [nn.Conv2d(3, 4, 3), first, nn.Tanh(), nn.Conv2d(4, 5, 3), second, nn.SiLU(), nn.Conv2d(5, 2, 1), third]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def batch(size: int) -> Tensor:
    return torch.randn(size, 3, 6, 7, generator=torch.Generator().manual_seed(size))


def loss(output: Tensor, size: int) -> Tensor:
    """A share of the mean, over a batch of that size, of a loss that is neither linear nor symmetric."""
    return (output**3 + output).sin().sum() / size


def trained(net: nn.Module, x: Tensor, size: int, processes: int = 1) -> Results:
    """Two backward passes: outputs, input gradients, weight gradients and what the layers remember."""
    results: Results = {}
    for _ in range(2):
        x = x.detach().requires_grad_()
        output = net(x)
        (processes * loss(output, size)).backward()
        assert x.grad is not None
        results |= {"output": output.detach(), "input gradient": x.grad / processes}
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in net.named_parameters()}
    return results | gradients | {name: buffer.clone() for name, buffer in net.named_buffers()}


def penalised(net: nn.Module, x: Tensor, size: int) -> list[Tensor]:
    """The weight gradients of a penalty on the input gradient: a second derivative."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(net(x), size), x, create_graph=True)
    return list(
        torch.autograd.grad(slope.square().sum(), list(net.parameters()), allow_unused=True, materialize_grads=True)
    )


def far_from_zero(size: int) -> Tensor:
    """Features of unit variance around 1000."""
    return batch(size).float() + 1000


def compute(rank: int) -> dict[str, Results]:
    """What one of two processes sees."""
    results: dict[str, Results] = {}
    for name, shares in SHARES.items():
        size, net = sum(shares), synchronized(network())
        x, far = (whole.split(shares)[rank] for whole in (batch(size), far_from_zero(size)))
        parallel = DistributedDataParallel(net)
        found = {key.replace("module.", ""): value for key, value in trained(parallel, x, size, processes=2).items()}
        found["second derivative"] = penalised(net, x, size)
        for gradient in found["second derivative"]:
            dist.all_reduce(gradient)
        with torch.no_grad():
            found["output without gradient"] = net(x)
        layer = synchronized(nn.BatchNorm2d(3, momentum=1.0).float())
        found["far output"] = layer(far).detach()
        found["far variance"] = layer.get_buffer("running_var").clone()
        found["half output"] = layer(x.bfloat16().to(memory_format=torch.channels_last)).detach()
        with patch("torch.distributed.all_reduce", side_effect=AssertionError("eval mode has communicated")):
            found["eval"] = trained(synchronized(network()).eval(), x, size)
        results[name] = found
    return results


def join(rank: int, folder: str) -> dict[str, Results]:
    """Be one of two processes."""
    store = dist.FileStore(f"{folder}/rendezvous", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=90))
    try:
        return compute(rank)
    finally:
        dist.destroy_process_group()


def other_process(_: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.save(join(1, folder), f"{folder}/other.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, float64: None) -> list[dict[str, Results]]:
    """What each of two processes computes, this one being the first."""
    folder = tmp_path_factory.mktemp("processes")
    context = start_processes(other_process, (str(folder),), nprocs=1, join=False, start_method="spawn")
    assert context is not None
    try:
        mine = join(0, str(folder))
        assert context.join(timeout=60)
    finally:
        for child in context.processes:
            child.kill()
    return [mine, torch.load(folder / "other.pt", weights_only=True)]


def joined(found: list[dict[str, Results]], shares: str, key: str) -> Tensor:
    return torch.cat([results[shares][key] for results in found])


@pytest.mark.parametrize("shares", SHARES)
def test_two_processes_are_one_with_the_whole_batch(found: list[dict[str, Results]], shares: str) -> None:
    size = sum(SHARES[shares])
    expected = trained(network(), batch(size), size)
    for key in ("output", "input gradient"):
        assert_close(joined(found, shares, key), expected.pop(key), rtol=0, atol=1e-12)
    for results in found:
        assert_close({key: results[shares][key] for key in expected}, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shares", SHARES)
def test_so_are_second_derivatives_and_what_is_computed_without_gradient(
    found: list[dict[str, Results]], shares: str
) -> None:
    x = batch(sum(SHARES[shares]))
    expected = penalised(network(), x, len(x))
    for results in found:
        assert_close(results[shares]["second derivative"], expected, rtol=1e-10, atol=1e-10)
    assert_close(joined(found, shares, "output without gradient"), network()(x).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shares", SHARES)
def test_statistics_of_features_far_from_zero_keep_their_digits(found: list[dict[str, Results]], shares: str) -> None:
    x = far_from_zero(sum(SHARES[shares]))
    exact = x.double().transpose(0, 1).flatten(1)
    for results in found:
        assert_close(results[shares]["far variance"].double(), exact.var(dim=1), rtol=1e-5, atol=0)
    expected = nn.BatchNorm2d(3)(x.double()).float().detach()
    assert_close(joined(found, shares, "far output"), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shares", SHARES)
def test_precision_and_memory_format_of_the_features_are_kept(found: list[dict[str, Results]], shares: str) -> None:
    x = batch(sum(SHARES[shares])).bfloat16()
    output = joined(found, shares, "half output")
    assert output.dtype == torch.bfloat16
    assert (output == nn.BatchNorm2d(3)(x.double()).bfloat16()).double().mean() > 0.99
    assert all(results[shares]["half output"].is_contiguous(memory_format=torch.channels_last) for results in found)


@pytest.mark.parametrize("shares", SHARES)
def test_eval_mode_is_that_of_each_process_alone(found: list[dict[str, Results]], shares: str) -> None:
    size = sum(SHARES[shares])
    for results, share in zip(found, batch(size).split(SHARES[shares]), strict=True):
        expected = trained(network().eval(), share, size)
        assert_close(results[shares]["eval"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_one_process_alone_is_plain_to_the_bit(training: bool) -> None:
    x = batch(4)
    plain, ours = (trained(net.train(training), x, 4) for net in (network(), synchronized(network())))
    assert_close(ours, plain, rtol=0, atol=0)


def test_turning_a_module_keeps_all_that_is_its_own() -> None:
    class Own(nn.BatchNorm2d):
        pass

    net = nn.Sequential(network(), nn.ModuleList([Own(2), nn.BatchNorm1d(2)])).to(memory_format=torch.channels_last)
    net[0][1].eval()
    before = {name: (part, vars(part).copy()) for name, part in net.named_modules()}
    keys, parameters = list(net.state_dict()), list(net.parameters())
    assert synchronized(net) is net
    after = dict(net.named_modules())
    assert [type(net[0][i]) for i in (1, 4, 7)] == [SynchronizedBatchNorm2d] * 3
    assert [type(part) for part in net[1]] == [Own, nn.BatchNorm1d]
    assert all(after[name] is part and vars(part) == kept for name, (part, kept) in before.items())
    assert list(net.state_dict()) == keys
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert type(synchronized(nn.BatchNorm2d(3))) is SynchronizedBatchNorm2d


def test_turned_module_is_plain_while_it_is_apart_and_once_it_is_separated() -> None:
    net, plain = network(), fingerprint(network())
    with apart(synchronized(net)):
        assert fingerprint(net) == plain
    assert sum(type(part) is SynchronizedBatchNorm2d for part in net.modules()) == 3
    assert fingerprint(separated(net)) == plain
