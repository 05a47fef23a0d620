"""Map short reads to a small genome in plain Python.

Knows sequences, seeds, placements and the three file formats of the demo (FASTA, FASTQ, a table of
positions). Knows nothing of jobs or stores: `demo.py` spreads these functions over a workflow.

Positions are 0-based inside this module and 1-based in tables, as aligners write them.
"""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Iterable, Iterator
from functools import cache
from heapq import nlargest
from itertools import accumulate, islice, zip_longest
from operator import eq
from typing import IO, NamedTuple

SEED = 12  # a 12-mer occurs by chance once in 16.8 million places: rare in a genome of 100,000 bases
SEED_STEP = 2  # reads are sampled at every other base; the index holds every base
RESCUE_SEED = 6  # enough inside the few hundred bases next to a mapped mate
FRAGMENT = 600  # the mates of a pair start at most this many bases apart
VERIFIED = 4  # best-voted diagonals that are compared base by base
MAX_GAP = 30  # longest insertion or deletion looked for, in bases
GAP_COST = 8  # matches that a gap must bring: it has thousands of ways to fit by chance
ODDS = 1000  # of so many reads of random bases, one may be called aligned

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


class Index(NamedTuple):
    """A genome and the positions of its seeds."""

    genome: str
    seeds: dict[str, list[int]]


class Placement(NamedTuple):
    """Where a read lies: how many bases speak for it, the strand and the leftmost position (0-based)."""

    score: int
    strand: str
    position: int


class Pair(NamedTuple):
    """The two mates of one fragment."""

    name: str
    first: str
    second: str


Table = dict[tuple[str, str], tuple[str, int]]
"""(read, mate) -> (strand, 1-based leftmost position, 0 where the mate is not aligned)."""


def build_index(genome: str) -> Index:
    """Index every seed of `genome`."""
    seeds: dict[str, list[int]] = {}
    for position in range(len(genome) - SEED + 1):
        seeds.setdefault(genome[position : position + SEED], []).append(position)
    return Index(genome, seeds)


def save_index(index: Index, stream: IO[bytes]) -> None:
    """Write `index` so that `load_index` reads it back."""
    pickle.dump(tuple(index), stream, protocol=pickle.HIGHEST_PROTOCOL)


def load_index(stream: IO[bytes]) -> Index:
    """Read what `save_index` wrote."""
    return Index(*pickle.load(stream))


def map_pair(index: Index, first: str, second: str) -> tuple[Placement | None, Placement | None]:
    """Place both mates; one that is lost alone is looked for beside the other."""
    here, there = map_read(index, first), map_read(index, second)
    if here and not there:
        there = rescue(index, second, here)
    elif there and not here:
        here = rescue(index, first, there)
    return here, there


def map_read(index: Index, read: str) -> Placement | None:
    """Place one read anywhere on either strand, or answer None where chance would explain the fit."""
    found = []
    for strand, sequence in (("+", read), ("-", reverse_complement(read))):
        found += verify(index.genome, sequence, strand, _votes(index.seeds, sequence))
    return _believable(found, read, placements=2 * len(index.genome))


def rescue(index: Index, read: str, mate: Placement) -> Placement | None:
    """Place a read on the strand and within the distance that its placed mate implies."""
    if mate.strand == "+":
        strand, sequence, start = "-", reverse_complement(read), mate.position
    else:
        strand, sequence, start = "+", read, max(0, mate.position - FRAGMENT)
    window = index.genome[start : start + FRAGMENT + len(read)]
    votes = {start + diagonal: count for diagonal, count in _window_votes(window, sequence).items()}
    return _believable(verify(index.genome, sequence, strand, votes), read, placements=FRAGMENT)


def verify(genome: str, sequence: str, strand: str, votes: dict[int, int]) -> list[Placement]:
    """Compare `sequence` with `genome` base by base on the diagonals that have most votes."""
    last = len(genome) - len(sequence)
    straight = [
        Placement(sum(map(eq, sequence, genome[diagonal : diagonal + len(sequence)])), strand, diagonal)
        for diagonal in nlargest(VERIFIED, votes, key=votes.__getitem__)
        if 0 <= diagonal <= last
    ]
    gapped = [
        Placement(_gapped_matches(genome, sequence, left, right) - GAP_COST, strand, left)
        for left, right in _neighbours([placement.position for placement in straight])
    ]
    return straight + gapped


@cache
def enough_matches(bases: int, placements: int) -> int:
    """How many of `bases` must match before chance is no explanation.

    The smallest count that the best of `placements` random placements (each base right with probability
    1/4) reaches less than once in ODDS reads; more than `bases` where no count is enough. In integers: the
    powers of four outgrow a float at 512 bases.
    """
    matches, exactly, as_good = bases, 1, 1  # sequences that match in this many bases, and in so many or more
    while matches and as_good * placements * ODDS < 4**bases:
        exactly = exactly * 3 * matches // (bases - matches + 1)
        matches -= 1
        as_good += exactly
    return matches + 1


def reverse_complement(sequence: str) -> str:
    """The sequence of the opposite strand."""
    return sequence.translate(COMPLEMENT)[::-1]


def _votes(seeds: dict[str, list[int]], sequence: str) -> dict[int, int]:
    """Diagonal (where the read would start) -> seeds that agree on it."""
    votes: dict[int, int] = {}
    for offset in range(0, len(sequence) - SEED + 1, SEED_STEP):
        for position in seeds.get(sequence[offset : offset + SEED], ()):
            diagonal = position - offset
            votes[diagonal] = votes.get(diagonal, 0) + 1
    return votes


def _window_votes(window: str, sequence: str) -> dict[int, int]:
    """As `_votes`, with short seeds searched in a stretch too small to be worth an index."""
    votes: dict[int, int] = {}
    for offset in range(len(sequence) - RESCUE_SEED + 1):
        seed = sequence[offset : offset + RESCUE_SEED]
        position = window.find(seed)
        while position >= 0:
            votes[position - offset] = votes.get(position - offset, 0) + 1
            position = window.find(seed, position + 1)
    return votes


def _neighbours(diagonals: list[int]) -> Iterator[tuple[int, int]]:
    """Ordered pairs of diagonals that one insertion or deletion could join."""
    for left in diagonals:
        for right in diagonals:
            if 0 < abs(left - right) <= MAX_GAP:
                yield left, right


def _gapped_matches(genome: str, sequence: str, left: int, right: int) -> int:
    """Matches when the read starts on diagonal `left` and changes to `right` at the best base."""
    size = len(sequence)
    on_left = accumulate(map(eq, sequence, genome[left : left + size]))
    on_right: list[int] = list(accumulate(map(eq, sequence, genome[right : right + size])))
    inserted = max(0, left - right)  # bases of the read that belong to neither diagonal
    gain = max((a - b for a, b in zip(on_left, on_right[inserted:], strict=False)), default=0)
    return on_right[-1] + gain


def _believable(found: list[Placement], read: str, placements: int) -> Placement | None:
    """The best placement, if it matches in more bases than chance explains; N speaks for nothing."""
    best = max(found, default=None, key=lambda placement: placement.score)
    if best is None or best.score < enough_matches(len(read) - read.count("N"), placements):
        return None
    return best


def open_text(path: str) -> IO[str]:
    """Open a text file, compressed by gzip or not (told by its first bytes, not by its name)."""
    with open(path, "rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="ascii") if compressed else open(path, encoding="ascii")


def read_genome(path: str) -> str:
    """The bases of a FASTA file of one sequence, in capitals."""
    with open_text(path) as lines:
        if not next(lines, "").startswith(">"):
            raise ValueError(f"cannot read a genome: {path} does not begin with '>'; give a FASTA file")
        return "".join(line.strip() for line in lines).upper()


def read_pairs(first: str, second: str, part: int = 0, parts: int = 1) -> Iterator[Pair]:
    """The read pairs number `part`, `part + parts`, `part + 2 * parts`, ... of two FASTQ files."""
    with open_text(first) as lines, open_text(second) as mates:
        pairs = zip_longest(_fastq(lines, first), _fastq(mates, second))
        for here, there in islice(pairs, part, None, parts):
            if here is None or there is None or here[0] != there[0]:
                names = " and ".join(record[0] if record else "no read" for record in (here, there))
                raise ValueError(f"cannot pair {names}: give {first} and {second} the same reads in order")
            yield Pair(here[0], here[1], there[1])


def _fastq(lines: Iterable[str], path: str) -> Iterator[tuple[str, str]]:
    """(name, bases) of each record; a mate suffix of the name is dropped."""
    stream = iter(lines)
    for header in stream:
        words = header.split(maxsplit=1)
        bases = next(stream, "").strip()
        if not words or not header.startswith("@") or not next(stream, "").startswith("+"):
            raise ValueError(f"cannot read reads: no FASTQ record at {header.strip()[:40]!r} in {path}")
        next(stream, "")
        yield words[0][1:].removesuffix("/1").removesuffix("/2"), bases.upper()


def table_rows(name: str, placements: Iterable[Placement | None]) -> str:
    """The lines of a table for the mates of one pair."""
    return "".join(
        f"{name}\t{mate}\t{placed.strand}\t{placed.position + 1}\n" if placed else f"{name}\t{mate}\t+\t0\n"
        for mate, placed in enumerate(placements, 1)
    )


def read_table(path: str) -> Table:
    """Read a table of read, mate, strand, position; a header line and more columns are passed over."""
    table: Table = {}
    with open_text(path) as lines:
        for line in lines:
            name, mate, strand, position = line.split("\t")[:4]
            if mate != "mate":
                table[name, mate] = (strand, int(position))
    return table


def aligned(table: Table) -> int:
    """How many mates of `table` are aligned."""
    return sum(position > 0 for _, position in table.values())


def agreeing(ours: Table, theirs: Table, tolerance: int = 10) -> int:
    """How many mates both tables align to the same strand, at most `tolerance` bases apart."""
    return sum(_agree(ours[mate], answer, tolerance) for mate, answer in theirs.items() if mate in ours)


def _agree(here: tuple[str, int], there: tuple[str, int], tolerance: int) -> bool:
    both_aligned = here[1] > 0 and there[1] > 0
    return both_aligned and here[0] == there[0] and abs(here[1] - there[1]) <= tolerance
