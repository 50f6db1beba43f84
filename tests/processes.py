"""Run a function in two processes that train together over gloo, as torchrun would begin them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import time
import traceback
from multiprocessing.connection import wait

from torch.distributed import TCPStore

PATIENCE = 120  # seconds for one function, after which the processes are taken to hang


def together(function, *arguments, n_processes=2):
    """What the function returns in each process, in the order of their ranks.

    Args:
        function: of a module, so that other processes find it. `Runtime.start()` inside of it gives
            the rank and the number of processes.
        arguments: for all processes; they travel by pickle, as do the results.
        n_processes: kept between calls, since beginning them takes seconds.

    Raises:
        AssertionError: with the traceback of the process that failed; the others are ended.
    """
    group = _Group.of(n_processes)
    sent = pickle.dumps((function, arguments))
    for pipe in group.pipes:
        pipe.send_bytes(sent)
    return group.answers()


class _Group:
    running: dict[int, _Group] = {}  # noqa: RUF012  # by number of processes

    @classmethod
    def of(cls, n_processes):
        if n_processes not in cls.running:
            cls.running[n_processes] = cls(n_processes)
        return cls.running[n_processes]

    def __init__(self, n_processes):
        # The store listens at a port of the system's choice before anybody is told which: a port
        # found free and opened later may be gone by then.
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        spawn = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(n_processes):
            ours, theirs = spawn.Pipe()
            place = {
                "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n_processes,
                "LOCAL_WORLD_SIZE": n_processes, "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": self.store.port, "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": 0,
            }  # fmt: skip
            process = spawn.Process(target=_serve, args=(theirs, place), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        atexit.register(self.end)

    def answers(self):
        found = {}
        deadline = time.monotonic() + PATIENCE
        while len(found) < len(self.pipes):
            waiting = [pipe for rank, pipe in enumerate(self.pipes) if rank not in found]
            # the first to fail is told at once: the others may wait for it forever
            ready = wait(waiting, timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                self._fail("no answer; one process waits for another?")
            for pipe in ready:
                rank = self.pipes.index(pipe)
                try:
                    failed, found[rank] = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    failed, found[rank] = True, "it ended"
                if failed:
                    self._fail(f"process {rank}: {found[rank]}")
        return [found[rank] for rank in range(len(self.pipes))]

    def _fail(self, why):
        self.end()
        raise AssertionError(why)

    def end(self):
        _Group.running.pop(len(self.processes), None)
        for process in self.processes:
            process.kill()
            process.join()


def _serve(pipe, place):
    os.environ.update({name: str(value) for name, value in place.items()})
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = False, function(*arguments)
        except BaseException:
            answer = True, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))
