"""The read mapper of the demo: placements, the decision not to place, and its three file formats."""

from __future__ import annotations

import gzip
import importlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATA = EXAMPLES / "data"
HOSTILE = "-a 'b' \"c\"\nd é " + "x" * 150


@pytest.fixture(scope="module")
def mapper() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("mapper")


@pytest.fixture(scope="module")
def index(mapper: Any) -> Any:
    return mapper.build_index(mapper.read_genome(str(DATA / "lambda_virus.fa.gz")))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    directory = tmp_path / HOSTILE
    directory.mkdir()
    return directory


def mutate(rng: random.Random, bases: str, rate: float) -> str:
    return "".join(rng.choice("ACGT".replace(base, "")) if rng.random() < rate else base for base in bases)


def every_eighth_wrong(bases: str) -> str:
    """A read without an intact seed, of which seven in eight bases match."""
    return "".join("GTAC"["ACGT".index(base)] if at % 8 == 0 else base for at, base in enumerate(bases))


def junk(rng: random.Random, size: int) -> str:
    return "".join(rng.choice("ACGT") for _ in range(size))


def test_a_perfect_read_is_placed_on_either_strand(mapper: Any, index: Any) -> None:
    read = index.genome[1000:1100]
    assert mapper.map_read(index, read) == mapper.Placement(100, "+", 1000)
    assert mapper.map_read(index, mapper.reverse_complement(read)) == mapper.Placement(100, "-", 1000)


@pytest.mark.parametrize("start", [0, 48502 - 60])
def test_the_ends_of_the_genome_are_reached(mapper: Any, index: Any, start: int) -> None:
    assert mapper.map_read(index, index.genome[start : start + 60]).position == start


def test_a_read_longer_than_the_genome_is_not_placed(mapper: Any, index: Any) -> None:
    assert mapper.map_read(index, index.genome + "ACGT") is None


@pytest.mark.parametrize("read", ["", "A", "ACGTACGTAC", "N" * 100])
def test_a_read_that_says_nothing_is_not_placed(mapper: Any, index: Any, read: str) -> None:
    assert mapper.map_read(index, read) is None
    assert mapper.map_pair(index, read, read) == (None, None)


def test_mismatches_are_allowed(mapper: Any, index: Any) -> None:
    rng = random.Random(20)
    starts = [rng.randrange(48000) for _ in range(200)]
    found = [mapper.map_read(index, mutate(rng, index.genome[start : start + 100], 0.1)) for start in starts]
    off = [placed.position - start for placed, start in zip(found, starts, strict=True) if placed]
    assert off == [0] * len(off)
    assert len(off) >= 195


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("gap", [-30, -16, -3, -1, 1, 3, 16, 30])
def test_a_gap_does_not_move_the_leftmost_base(mapper: Any, index: Any, gap: int, strand: str) -> None:
    """A negative gap lacks bases of the genome, a positive one has bases that the genome lacks."""
    start, inserted = 5000, junk(random.Random(1), max(0, gap))
    read = index.genome[start : start + 50] + inserted + index.genome[start + 50 + max(0, -gap) : start + 140]
    placed = mapper.map_read(index, read if strand == "+" else mapper.reverse_complement(read))
    assert (placed.strand, placed.position) == (strand, start)


def test_a_straight_read_is_not_explained_by_a_gap(mapper: Any, index: Any) -> None:
    read = index.genome[5000:5100]
    found = mapper.verify(index.genome, read, "+", {5000: 9, 5007: 8})
    assert max(found) == mapper.Placement(100, "+", 5000)


def test_inserted_bases_are_no_matches(mapper: Any, index: Any) -> None:
    read = index.genome[5000:5060] + index.genome[5050:5100]
    placed = mapper.map_read(index, read)
    assert placed == mapper.Placement(100 - mapper.GAP_COST, "+", 5000)


def test_random_reads_are_not_placed(mapper: Any, index: Any) -> None:
    rng = random.Random(7)
    reads = [junk(rng, rng.randint(30, 300)) for _ in range(2000)]
    assert sum(mapper.map_read(index, read) is not None for read in reads) <= 2


def test_a_random_mate_is_not_rescued(mapper: Any, index: Any) -> None:
    rng = random.Random(8)
    anchor = mapper.Placement(100, "+", 20000)
    reads = [junk(rng, rng.randint(30, 300)) for _ in range(1000)]
    assert sum(mapper.rescue(index, read, anchor) is not None for read in reads) <= 2


@pytest.mark.parametrize(
    ("bases", "placements", "expected"),
    # By hand: 4**-6 = 1/4096 is less than one in 1000, 4**-5 = 1/1024 too, 4**-4 = 1/256 is not.
    [(6, 1, 6), (5, 1, 5), (4, 1, 5), (5, 2, 6), (0, 1, 1), (0, 97004, 1), (8, 97004, 9)],
)
def test_chance_decides_how_much_must_match(mapper: Any, bases: int, placements: int, expected: int) -> None:
    assert mapper.enough_matches(bases, placements) == expected


def test_the_demand_rises_with_the_places_and_holds_for_long_reads(mapper: Any) -> None:
    assert mapper.enough_matches(100, 97004) > mapper.enough_matches(100, 600) > 25
    assert 250 < mapper.enough_matches(1000, 97004) < 400
    assert 2500 < mapper.enough_matches(10000, 97004) < 3000


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_poor_mate_is_found_beside_its_good_one(mapper: Any, index: Any, order: tuple[int, int]) -> None:
    good = index.genome[30000:30100]
    poor = mapper.reverse_complement(every_eighth_wrong(index.genome[30200:30300]))
    assert mapper.map_read(index, poor) is None
    mates = (good, poor)
    placed = mapper.map_pair(index, mates[order[0]], mates[order[1]])
    assert [placed[i][1:] for i in order] == [("+", 30000), ("-", 30200)]


def test_a_mate_on_the_left_is_found_too(mapper: Any, index: Any) -> None:
    good = mapper.reverse_complement(index.genome[200:300])
    poor = every_eighth_wrong(index.genome[40:140])
    assert mapper.map_read(index, poor) is None
    assert [placed[1:] for placed in mapper.map_pair(index, good, poor)] == [("-", 200), ("+", 40)]


def test_unknown_bases_never_match_and_are_not_held_against_a_read(mapper: Any, index: Any) -> None:
    read = index.genome[1000:1030] + "N" * 100
    assert mapper.map_read(index, read) == mapper.Placement(30, "+", 1000)


def test_an_index_survives_its_file(mapper: Any, index: Any, hostile: Path) -> None:
    with open(hostile / "index", "wb") as stream:
        mapper.save_index(index, stream)
    with open(hostile / "index", "rb") as stream:
        assert mapper.load_index(stream) == index


@pytest.mark.parametrize("compressed", [True, False])
def test_compression_is_told_by_content(mapper: Any, hostile: Path, compressed: bool) -> None:
    text = b">virus\r\nACgt\r\nNN\n\n"
    (hostile / "genome").write_bytes(gzip.compress(text) if compressed else text)
    assert mapper.read_genome(str(hostile / "genome")) == "ACGTNN"


@pytest.mark.parametrize("text", ["", "ACGT\n", "@r1\nACGT\n"])
def test_a_file_that_is_no_fasta_is_named(mapper: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "genome").write_text(text)
    with pytest.raises(ValueError, match=r"cannot read a genome: .*genome does not begin"):
        mapper.read_genome(str(tmp_path / "genome"))


def fastq(path: Path, names: list[str]) -> str:
    path.write_text("".join(f"@{name}\nACGT\n+\n@@@@\n" for name in names))
    return str(path)


def test_mate_suffixes_and_comments_are_dropped(mapper: Any, hostile: Path) -> None:
    first = fastq(hostile / "1", ["a/1 lane 3", "b/1"])
    second = fastq(hostile / "2", ["a/2", "b/2 x"])
    assert list(mapper.read_pairs(first, second)) == [("a", "ACGT", "ACGT"), ("b", "ACGT", "ACGT")]


@pytest.mark.parametrize("parts", [1, 3, 16])
def test_parts_cover_every_pair_once(mapper: Any, tmp_path: Path, parts: int) -> None:
    names = [f"r{number}" for number in range(10)]
    files = fastq(tmp_path / "1", names), fastq(tmp_path / "2", names)
    seen = [pair.name for part in range(parts) for pair in mapper.read_pairs(*files, part, parts)]
    assert sorted(seen) == sorted(names)


@pytest.mark.parametrize(
    ("second", "said"),
    [(["a"], "b and no read"), (["a", "c"], "b and c"), (["a", "b", "c"], "no read and c")],
)
def test_files_that_do_not_pair_are_refused(
    mapper: Any, tmp_path: Path, second: list[str], said: str
) -> None:
    files = fastq(tmp_path / "1", ["a", "b"]), fastq(tmp_path / "2", second)
    with pytest.raises(ValueError, match=f"cannot pair {said}: "):
        list(mapper.read_pairs(*files))


@pytest.mark.parametrize("text", ["r1\nACGT\n+\n!!!!\n", "@r1\nACGT\n!!!!\n", "@r1\n", "\n", ">r1\nACGT\n"])
def test_a_broken_fastq_is_named(mapper: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "reads").write_text(text)
    with pytest.raises(ValueError, match=r"cannot read reads: no FASTQ record at .* in .*reads"):
        list(mapper.read_pairs(str(tmp_path / "reads"), str(tmp_path / "reads")))


def test_a_table_reads_back(mapper: Any, hostile: Path) -> None:
    rows = mapper.table_rows("r1", (mapper.Placement(90, "-", 0), None))
    (hostile / "table").write_text("read\tmate\tstrand\tposition\tmapq\n" + rows)
    table = mapper.read_table(str(hostile / "table"))
    assert table == {("r1", "1"): ("-", 1), ("r1", "2"): ("+", 0)}
    assert mapper.aligned(table) == 1


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        (("+", 100), ("+", 110), 1),
        (("+", 110), ("+", 100), 1),
        (("+", 100), ("+", 111), 0),
        (("+", 100), ("-", 100), 0),
        (("+", 0), ("+", 5), 0),
        (("+", 5), ("+", 0), 0),
        (("+", 0), ("+", 0), 0),
    ],
)
def test_agreement_needs_two_placements_on_one_strand(
    mapper: Any, ours: tuple[str, int], theirs: tuple[str, int], agree: int
) -> None:
    mate = ("r1", "1")
    assert mapper.agreeing({mate: ours}, {mate: theirs, ("r2", "1"): ("+", 7)}) == agree


def test_a_slice_of_the_real_reads_agrees_with_bowtie2(mapper: Any, index: Any, tmp_path: Path) -> None:
    files = [str(DATA / f"reads_{mate}.fq.gz") for mate in (1, 2)]
    pairs = list(mapper.read_pairs(*files, 3, 10))
    rows = [mapper.table_rows(pair.name, mapper.map_pair(index, pair.first, pair.second)) for pair in pairs]
    (tmp_path / "table").write_text("".join(rows))
    ours = mapper.read_table(str(tmp_path / "table"))
    assert len(ours) == 2000
    assert mapper.aligned(ours) >= 1800
    assert mapper.agreeing(ours, mapper.read_table(str(DATA / "bowtie2-2.5.0.tsv.gz"))) >= 1750
