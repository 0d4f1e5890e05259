"""What many machines cost: a formula with one term for each thing that can be the narrowest, and a simulation of it."""

import heapq
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Job:
    """Many draws alike."""

    items: int
    """Draws, or people whose members are drawn together."""
    seconds: float
    """Of one item on one worker, without reading or writing."""
    result: float
    """Bytes of what an item comes to, which the driver receives, checks and writes."""
    checkpoints: float
    """Bytes that an item writes on its way, to storage that all workers share."""
    function: float
    """Bytes of what the function holds, sent to each machine once."""


@dataclass(frozen=True)
class Cluster:
    """Where they are drawn."""

    workers: int
    workers_a_machine: int = 8
    start: float = 30.0
    """Seconds until the first worker works."""
    overhead: float = 0.005
    """Seconds of the driver for each item, whatever its size."""
    driver: float = 3e8
    """Bytes a second that the driver receives, checks and writes."""
    network: float = 1.25e9
    """Bytes a second into one machine: 10 gigabit."""
    storage: float = 2e9
    """Bytes a second that all workers together write to shared storage."""


def terms(job: Job, cluster: Cluster) -> dict[str, float]:
    """Give the seconds that each part would take if nothing else took any.

    Compute rounds up: at the end some workers wait for the last. The function goes from machine to machine, so that
    those that have it double.
    """
    machines = -(-cluster.workers // cluster.workers_a_machine)
    each = job.seconds + job.checkpoints / min(cluster.storage, cluster.network / cluster.workers_a_machine)
    parts = {
        "sending": job.function / cluster.network * np.ceil(np.log2(machines + 1)),
        "compute": -(-job.items // cluster.workers) * each,
        "driver": job.items * (cluster.overhead + job.result / cluster.driver),
        "storage": job.items * job.checkpoints / cluster.storage,
    }
    return {name: float(seconds) for name, seconds in parts.items()}


def predicted(job: Job, cluster: Cluster) -> float:
    """Give the seconds of the whole: the start, sending, and then the slowest of what goes on side by side.

    Driver and storage take one item after another, and the first only when it is computed.
    """
    parts = terms(job, cluster)
    each, handling = parts["compute"] / -(-job.items // cluster.workers), parts["driver"] / job.items
    slowest = max(parts["compute"] + handling, parts["driver"] + each, parts["storage"] + job.seconds + handling)
    return cluster.start + parts["sending"] + slowest


def bottleneck(job: Job, cluster: Cluster) -> str:
    """Name the part that takes longest."""
    parts = terms(job, cluster)
    return max(parts, key=lambda part: parts[part])


def simulated(job: Job, cluster: Cluster, *, spread: float = 0.0, lost: float = 0.0, seed: int = 0) -> float:
    """Give the seconds of one run, event by event: an item is computed, written, and handed to the driver.

    Args:
        job: What is drawn.
        cluster: Where.
        spread: Standard deviation of the logarithm of items' seconds.
        lost: Chance that an item's worker is lost, half of the way on average; it is then done again from its start.
        seed: Names the run.
    """
    rng = np.random.default_rng(seed)
    alone = job.checkpoints / min(cluster.storage, cluster.network / cluster.workers_a_machine)

    def computed(start: float) -> float:
        took = job.seconds * np.exp(spread * rng.standard_normal() - spread**2 / 2)
        while rng.random() < lost:
            start += took * rng.random()
        return start + took

    storage = driver = begin = cluster.start + terms(job, cluster)["sending"]
    busy = [computed(begin) for _ in range(min(cluster.workers, job.items))]  # when each worker wants to write
    heapq.heapify(busy)
    for left in reversed(range(job.items)):
        wants = heapq.heappop(busy)
        storage = max(storage, wants) + job.checkpoints / cluster.storage  # one after another
        written = max(storage, wants + alone)
        driver = max(driver, written) + cluster.overhead + job.result / cluster.driver
        if left >= len(busy) + 1:
            heapq.heappush(busy, computed(written))
    return float(driver)


LOW_RANK = 1.45e6
"""Numbers of SDXL's low-rank updates for each rank: q, k, v and out of both attentions of its 70 blocks, 10 of width
640 and 60 of width 1280, that read 2048 wide text."""


def sdxl(people: int = 1000, members: int = 16, rank: int = 16, steps: int = 500, rows: int = 4) -> Job:
    """Give the job of learning people with Stable Diffusion XL.

    A row of a step costs 0.1 s: 6·10¹² operations of the denoiser forward, as many back to its layers' inputs and as
    many again for recomputed ones, at 2·10¹⁴ a second, which an accelerator of 2023 reaches. Checkpoints, each 100
    steps, hold the members and Adam's two moments. The function holds the pipeline in 16 bits.
    """
    member = 4 * LOW_RANK * rank
    return Job(
        items=people,
        seconds=0.1 * members * rows * steps,
        result=members * member,
        checkpoints=steps / 100 * 3 * members * member,
        function=7e9,
    )


def table(job: Job, cluster: Cluster, workers: tuple[int, ...]) -> str:
    """Give a table of hours and of the narrowest part, by number of workers."""
    lines = ["| workers | hours | simulated | narrowest |", "|---|---|---|---|"]
    for count in workers:
        one = replace(cluster, workers=count)
        hours, events = predicted(job, one) / 3600, simulated(job, one, spread=0.1, lost=0.01) / 3600
        lines.append(f"| {count:,} | {hours:.1f} | {events:.1f} | {bottleneck(job, one)} |")
    return "\n".join(lines)
