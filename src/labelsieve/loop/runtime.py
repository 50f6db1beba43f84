"""Where networks run: the device, the precision, and the processes that train together.

The one module that knows Accelerate and torch.distributed. Alone, a process needs neither, and does
not import Accelerate (1.1 s). Several processes are begun by `torchrun`, or on GPUs by
`accelerate launch`, which begins one only on CPU.

How several processes give the gradient of one: each holds an equal share of the *global* batch;
`gather` gives all of them the rows of all, so that each computes the same loss L of the whole
batch; its backward sums what all processes say of the own rows, P times dL/drows; and the mean over
the P processes, taken by DistributedDataParallel, is then dL/dweights. A loss that is a mean over
the own share needs no gather: the mean over processes is the mean over the global batch.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from labelsieve.errors import ConfigError
from labelsieve.loop.batch_norm import synchronized

Precision = Literal["fastest", "float32", "bfloat16", "float16"]  # see fastest_precision

# How long processes wait for each other: also while the main one decodes or evaluates, for which
# the 10 and 30 minutes of torch are too short. A process that dies is noticed by its launcher.
_PATIENCE = timedelta(hours=12)

# A setting of DistributedDataParallel's; torch 2.13 gave it another name and warns of the old one.
_NAMES = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"
_LEAVE_BUFFERS: dict[str, Any] = {_SYNC: False}


class Runtime:
    """The device, precision and processes of a training; made by `Runtime.start`.

    Attributes:
        device: of this process.
        precision: of the networks' multiplications; weights, losses and optimizers are float32.
        rank: of this process, 0 to n_processes - 1.
        n_processes: that train together.
    """

    def __init__(
        self, device: torch.device, precision: Precision, rank: int = 0, n_processes: int = 1
    ) -> None:
        self.device = device
        self.precision: Precision = precision
        if precision == "fastest":
            self.precision = fastest_precision(str(device))
        self.rank, self.n_processes = rank, n_processes
        # float16 loses small gradients below 6e-8: the loss is scaled up, the gradients down again
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")

    @classmethod
    def start(cls, device: str = "cpu", precision: Precision = "float32") -> Runtime:
        """Take part in what `torchrun` or `accelerate launch` began; else run alone.

        May be called any number of times in a process, each time with another precision.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps". Of several processes on "cuda", each takes the
                GPU of its number.
            precision: "fastest" becomes what `fastest_precision` says of the device.

        Raises:
            ConfigError: no such precision, or no such device on this machine.

        Example:
            >>> runtime = Runtime.start("cpu")
            >>> runtime.is_main, runtime.n_processes
            (True, 1)
        """
        if precision not in get_args(Precision):
            words = ", ".join(get_args(Precision))
            raise ConfigError(f"precision is {precision!r}; expected one of {words}.")
        chosen = _device(device)
        if n_launched() < 2:
            return cls(chosen, precision)
        from accelerate import PartialState

        ours = not distributed.is_initialized()
        state = PartialState(cpu=chosen.type == "cpu", timeout=_PATIENCE)
        if ours:
            atexit.register(_leave)
        if state.device.type != chosen.type:
            raise ConfigError(
                f"device is {device!r}; the processes were begun for {state.device.type}. "
                f"Give --device {state.device.type}, or begin them for {chosen.type}."
            )
        own = torch.device("cpu") if chosen.type == "cpu" else state.device
        return cls(own, precision, state.process_index, state.num_processes)

    @classmethod
    def alone(cls, device: str = "cpu", precision: Precision = "float32") -> Runtime:
        """This process by itself, however many were begun: for what it does while others do not.

        Arguments as for `start`.
        """
        return cls(_device(device), precision)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return self.rank == 0

    def prepare(self, module: nn.Module, *, compiled: bool = False) -> nn.Module:
        """The module, ready to train here: call it as before; save and inspect `bare` of it.

        It moves to the device in channels_last, in place. Its forward runs in this runtime's
        precision and returns float32, so that losses and augmentation stay in float32. With several
        processes, batch norm normalizes over the global batch and gradients are averaged; give it
        to `make_optimizers` and copy it (`Average`) after this, not before.

        Args:
            module: equal on all processes, or made so: the main process' weights count.
            compiled: by torch.compile; on CUDA only, since on CPU it is slower than this.
        """
        module = module.to(device=self.device)
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.n_processes > 1:
            module = synchronized(module, self.device, _mean_with_gradient, self.n_processes)
            _send_buffers(module)
        if compiled and self.device.type == "cuda":
            # not in place: what `bare` gives, to evaluate and extract, is not compiled
            module = cast(nn.Module, torch.compile(module))
        if self.precision != "float32":
            module = _InPrecision(module, self.device.type, getattr(torch, self.precision))
        if self.n_processes > 1 and any(weight.requires_grad for weight in module.parameters()):
            # Buffers stay equal everywhere: batch norm is synchronized, banks push whole batches.
            # Sending them at each forward would only undo a second forward before the backward.
            ids = None if self.device.type == "cpu" else [self.device]
            return DistributedDataParallel(module, device_ids=ids, **_LEAVE_BUFFERS)
        return module

    def autocast(self) -> torch.autocast:
        """A context in which networks that were not prepared run in this precision."""
        dtype = getattr(torch, self.precision)
        return torch.autocast(self.device.type, dtype, enabled=self.precision != "float32")

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the weights."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def clip_and_step(
        self, optimizers: Iterable[torch.optim.Optimizer], largest_norm: float = 0.0
    ) -> None:
        """Update the weights and clear their gradients.

        In float16, gradients beyond its range leave all weights as they were, and the scale of the
        loss is halved for the next step.

        Args:
            optimizers: which share one scale and one norm.
            largest_norm: of all gradients together; above it they are shrunk. 0: as they are.
        """
        all_of_them = _Together(optimizers)
        self._scaler.unscale_(all_of_them)  # type: ignore[arg-type]
        if largest_norm > 0:
            nn.utils.clip_grad_norm_(all_of_them.parameters(), largest_norm)
        self._scaler.step(all_of_them)  # type: ignore[arg-type]
        self._scaler.update()
        all_of_them.zero_grad()

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, with gradient to the own ones.

        Args:
            rows: (b, ...) of as many rows on each process.

        Returns:
            (P * b, ...) in the order of the global batch; `rows` themselves on one process.
        """
        if self.n_processes == 1:
            return rows
        return cast(Tensor, _Gather.apply(rows))  # type: ignore[no-untyped-call]

    def gather_detached(self, rows: Tensor) -> Tensor:
        """The rows of all processes in the order of the global batch, without gradient."""
        return rows.detach() if self.n_processes == 1 else _gathered(rows.detach())

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes, element by element, without gradient."""
        if self.n_processes == 1:
            return values.detach()
        return _mean(values.detach())

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all of them must ask, and all get the same answer."""
        if self.n_processes == 1:
            return flag
        said = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(said)
        return bool(said.item() > 0)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.n_processes > 1:
            distributed.barrier()

    @contextmanager
    def accumulating(self, modules: Iterable[nn.Module], last: bool) -> Iterator[None]:
        """Around forward and backward of one of several batches that share an update.

        Args:
            modules: as `prepare` gave them.
            last: the batch before the update, whose backward averages gradients over processes.
        """
        with ExitStack() as stack:
            for module in modules:
                if isinstance(module, DistributedDataParallel) and not last:
                    stack.enter_context(module.no_sync())
            yield

    def state_dict(self) -> dict[str, Any]:
        """The scale of float16 losses and the states of torch's generators, of all processes."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        everyones = {
            name: self.gather_detached(state[None].to(self.device)).cpu()
            for name, state in states.items()
        }
        return {"scaler": self._scaler.state_dict(), "random": everyones}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; a process that was not there keeps its generators."""
        self._scaler.load_state_dict(state["scaler"])
        # cloned: torch crashes on a state that isn't at the beginning of its storage
        mine = {
            name: states[self.rank].clone() for name, states in state["random"].items()
            if self.rank < len(states)
        }  # fmt: skip
        if "cpu" in mine:
            torch.set_rng_state(mine["cpu"])
        if "cuda" in mine and self.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda"], self.device)


def n_launched() -> int:
    """How many processes `torchrun` or `accelerate launch` began; 1 where neither did."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def fastest_precision(device: str) -> Precision:
    """bfloat16 where the hardware multiplies it, else float32.

    float16 is never the answer: it overflows at 65,504, and its updates are skipped when it does.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # absent from some builds of torch; without it float32 is right, only slower
        able = kind == "cpu" and bool(
            getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        )
    return "bfloat16" if able else "float32"


def bare(module: nn.Module) -> nn.Module:
    """The module without what `prepare` or torch.compile wrapped around it: to save or inspect."""
    while True:
        if isinstance(module, DistributedDataParallel | _InPrecision):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def _leave() -> None:
    """Left to itself, one exit in four aborts: threads of gloo outlive what they stand on.

    An abort is more than ugly: the launcher then ends the main process, whatever it is at. What
    DistributedDataParallel keeps in cycles holds the threads as well, and is collected first.
    """
    gc.collect()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _send_buffers(module: nn.Module) -> None:
    """Make all processes' buffers those of the main one, once; its weights are sent by torch."""
    for buffer in module.buffers():
        sent = buffer.detach().contiguous()  # as it must be; channels_last is not
        distributed.broadcast(sent, 0)
        buffer.copy_(sent)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; expected cpu, cuda, cuda:1 or mps.") from error
    able = {"cpu": True, "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available()}  # fmt: skip
    if not able.get(device.type, False):
        raise ConfigError(f"device is {name!r}; torch finds none on this machine. Use cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        n = torch.cuda.device_count()
        raise ConfigError(f"device is {name!r}; this machine has cuda:0 to cuda:{n - 1}.")
    return device


class _InPrecision(nn.Module):
    """Run a module in a runtime's precision and return float32.

    A wrapper, as autocast around a whole step would also round augmented pixels and losses.
    """

    def __init__(self, module: nn.Module, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self._device, self._dtype = device, dtype

    def forward(self, *inputs: Any) -> Any:
        with torch.autocast(self._device, self._dtype):
            return _float32(self.module(*inputs))


def _float32(value: Any) -> Any:
    """Half-precision tensors as float32, also those in tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if isinstance(value, dict):
        return {name: _float32(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        inners = [_float32(inner) for inner in value]
        return type(value)(*inners) if hasattr(value, "_fields") else type(value)(inners)
    return value


class _Together:
    """Several optimizers as one, so that they are scaled, clipped and skipped together."""

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        self.param_groups = [group for each in self.optimizers for group in each.param_groups]

    def parameters(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)


def _gathered(rows: Tensor) -> Tensor:
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, rows)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """Rows of all processes; the gradient of the own rows is the sum of all processes' gradients.

    Without a gradient, or with the gradient of the own loss only, the rows of the other processes
    would be constants, and the loss would be of another objective than on one process.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.n_rows = len(rows)
        return _gathered(rows)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        begin = distributed.get_rank() * context.n_rows
        return total[begin : begin + context.n_rows]


class _Mean(torch.autograd.Function):
    """The mean over processes; its gradient is the mean of all processes' gradients.

    As the mean of y_p = mean_q x_q: dL/dx_q = sum over p of dL/dy_p, over P.
    """

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return _mean(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _mean(gradient)


def _mean_with_gradient(values: Tensor) -> Tensor:
    return cast(Tensor, _Mean.apply(values))  # type: ignore[no-untyped-call]


def _mean(values: Tensor) -> Tensor:
    total: Tensor = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
