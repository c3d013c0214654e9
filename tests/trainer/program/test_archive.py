"""Archives: what goes in comes out, the rule is the evaluation's, and damage is refused."""

from __future__ import annotations

import os
import random
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard

from shared.clients import run
from trainer.channels.program import archive
from trainer.channels.program.archive import ArchiveError, make, read
from trainer.channels.program.bits import delta, gamma, whole
from trainer.channels.program.environment import Rules, judge
from trainer.channels.program.execution import Executor
from trainer.channels.program.odd_code import write_free
from trainer.channels.program.program import Line, Program
from trainer.channels.program.program_code import encode
from trainer.cli import main
from trainer.cli_program import sure
from trainer.measure.programs import METHODS, literal
from trainer.supervise import Service
from trainer.tasks.sequences import generate
from trainer.tasks.sequences_files import chunks

CORPORA = ("audio_16bit", "audio_8bit", "audio_mfcc", "dna", "synthetic", "text")


def restored(archive: bytes, executor: Executor) -> bytes:
    return read(archive).restore(lambda texts: [one.value for one in run(executor.run(texts))])


def literals(data: bytes, chunk: int, every: int = 1) -> list[str | None]:
    return [str(literal(s)) if i % every == 0 else None for i, s in enumerate(chunks(data, chunk))]


def test_programs_and_rest_restore_the_file(executor: Executor) -> None:
    chunk = 32
    pairs = generate(None, 20, 3, min_length=chunk, max_length=chunk)
    free = "output = []\nfor i in range(16):\n    output += [i, 200]\n"
    rng = random.Random(1)
    data = b"".join(bytes(p.sequence) for p in pairs) + bytes(v for i in range(16) for v in (i, 200))
    data += rng.randbytes(40)
    programs: list[str | None] = [*(str(p.program) for p in pairs), free, None, None]
    tried = [text for text in programs if text is not None]
    rollouts = run(judge(chunks(data, chunk)[: len(tried)], tried, executor, Rules()))
    assert all(r.solved for r in rollouts)
    made = make(data, chunk, programs)
    assert len(pairs) - 3 <= made.coded <= len(pairs) + 1 and len(made.data) < len(data)
    before = executor.client.requests
    assert restored(made.data, executor) == data
    assert executor.client.requests <= before + 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"a", b"ab" * 5000], ids=["empty", "zero", "one", "long"])
def test_small_and_repetitive_files_come_back(data: bytes, executor: Executor) -> None:
    for programs in (literals(data, 128), [None] * -(-len(data) // 128)):
        assert restored(make(data, 128, programs).data, executor) == data


def test_random_bytes_come_back_and_grow_by_the_header_only(executor: Executor) -> None:
    data = os.urandom(10_000)
    made = make(data, 128, literals(data, 128, every=3))
    assert restored(made.data, executor) == data
    assert made.coded == 0 and made.method == "raw" and len(made.data) < len(data) + 80


@pytest.mark.parametrize("name", CORPORA)
def test_each_corpus_comes_back(name: str, data: Path, executor: Executor) -> None:
    file = data / "kolmogorov" / f"{name}.bin"
    if not file.is_file():
        pytest.skip(f"no {file}")
    head = file.read_bytes()[: 64 * 1024]
    made = make(head, 128, literals(head, 128, every=7))
    assert restored(made.data, executor) == head and len(made.data) < len(head)


def test_every_damaged_byte_is_refused_by_checksum() -> None:
    archive = make(b"some bytes " * 30, 128, [None] * 3).data
    for place in range(4, len(archive)):
        damaged = bytearray(archive)
        damaged[place] ^= 1 << (place % 8)
        with pytest.raises(ArchiveError, match="checksum"):
            read(bytes(damaged))
    for cut in (10, 50, len(archive) - 1):
        with pytest.raises(ArchiveError, match="checksum"):
            read(archive[:cut])
    with pytest.raises(ArchiveError, match="no archive"):
        read(b"PK\x03\x04")


def test_a_program_that_makes_something_else_is_found_out(executor: Executor) -> None:
    lie = make(bytes([7] * 128), 128, ["output = repeat_num(128, 8)"])
    short = make(bytes([7] * 128), 128, ["output = repeat_num(127, 7)"])
    assert lie.coded == 1
    with pytest.raises(ArchiveError, match="SHA-256"):
        restored(lie.data, executor)
    with pytest.raises(ArchiveError, match="does not make 128 bytes"):
        restored(short.data, executor)


def test_the_verbs_restore_a_file_and_refuse_a_damaged_one(
    tmp_path: Path, sandbox: Service, tiny_coder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, packed, out = tmp_path / "a.bin", tmp_path / "a.psda", tmp_path / "b.bin"
    source.write_bytes(bytes([9] * 64) + bytes(range(64)) + b"text that no short program makes")
    url = ["--sandbox-url", sandbox.url]
    coder = ["--coder", str(tiny_coder), "--chunk", "16", "--max-tokens", "40", "--samples", "4"]
    assert main(["archive", str(source), "-o", str(packed), *coder, *url]) == 0
    assert main(["unarchive", str(packed), "-o", str(out), *url]) == 0
    assert out.read_bytes() == source.read_bytes()
    assert main(["unarchive", str(packed), "-o", str(out), *url]) == 2
    assert "is there already" in capsys.readouterr().err
    packed.write_bytes(packed.read_bytes()[:-3] + b"abc")
    assert main(["unarchive", str(packed), "-o", str(out), "--force", *url]) == 1
    assert "checksum" in capsys.readouterr().err and out.read_bytes() == source.read_bytes()


def test_a_file_that_is_no_archive_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("text")
    assert main(["unarchive", str(file)]) == 1
    assert f"{file}: no archive: it begins with b'text'" in capsys.readouterr().err
    assert main(["unarchive", str(file), "-o", str(tmp_path / "out")]) == 1


def sealed(bits: str, *, size: int = 10, method: int = 0, rest: bytes = b"") -> bytes:
    """Return an archive with a right checksum, as a stranger might make one."""
    body = archive.MAGIC + bytes([archive.VERSION]) + bytes(archive.HASH)
    packed = archive._packed(bits)
    body += b"".join(map(archive._varint, (size, size, len(packed)))) + packed + bytes([method]) + rest
    return body + zlib.crc32(body).to_bytes(4, "big")


def free(text: bytes) -> str:
    """Return the code of a free program of so much text, compressed; no flag before it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(text) + packer.flush()
    head = encode("import no_dsl\n")[: len(encode("import no_dsl\n")) - len(write_free("import no_dsl\n"))]
    return head + "1" + delta(len(data)) + "".join(format(byte, "08b") for byte in data)


@pytest.mark.parametrize("width", [1026, 1 << 40, 1 << 1000])
def test_a_strangers_number_takes_no_more_memory_than_numbers_have(width: int) -> None:
    program = Program((Line("set_list", ((-5, 7),)),))
    code = encode(program)
    number = whole(-5)
    assert code.count(number) == 1
    told = gamma(width) + "1" * min(width, 2000)
    with pytest.raises(ArchiveError, match="a number of"):
        read(sealed("1" + code.replace(number, told)))


def test_what_a_stranger_compressed_grows_no_larger_than_the_file_says() -> None:
    packed = zstandard.ZstdCompressor().compress(bytes(30_000_000))
    rest = sealed("0", method=list(METHODS).index("zstd"), rest=packed)
    program = sealed("1" + free(b" " * 30_000_000))
    tracemalloc.start()
    try:
        opened = read(rest)
        assert len(opened.rest) == 11
        with pytest.raises(ArchiveError, match="is not the file"):
            opened.restore(lambda texts: [])
        with pytest.raises(ArchiveError, match="free Python of over 1000000 bytes"):
            read(program)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_program_that_may_make_something_else_tomorrow_is_in_no_archive(executor: Executor) -> None:
    part = tuple(range(40))
    texts = {
        "output = range_func_up(0, 39)": True,
        "output = [i for i in range(40)]": True,
        "import time\noutput = list(range(40 if time.time() > 0 else 1))": False,
        "output = list(range(40 if hash('a') else 40))": False,
        "output = list(range(40 if range.__name__ else 1))": False,
        "output = list(range(39))": False,
    }
    assert sure([*texts, None], [part] * (len(texts) + 1), executor) == [
        *(text if kept else None for text, kept in texts.items()), None,
    ]  # fmt: skip


@pytest.mark.parametrize("verb", ["archive", "unarchive"])
def test_a_place_that_cannot_be_written_to_is_said_before_any_work(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, link, gone = tmp_path / "x.psda", tmp_path / "link", tmp_path / "no"
    data = make(b"abc", 3, [None]).data
    file.write_bytes(data)
    link.symlink_to(file)
    for out, said in (
        (gone / "x", f"{gone}/x: No such file or directory"), (tmp_path, f"{tmp_path}: is no regular file"),
        (tmp_path / ("n" * 300), "File name too long"),
        (file, "is the file itself"), (link, "is the file itself"), ("/dev/null", "is no regular file"),
    ):  # fmt: skip
        # The sandbox of that URL is never asked: nothing listens there.
        argv = [verb, str(file), "-o", str(out), "--force", "--sandbox-url", "http://127.0.0.1:9"]
        assert main(argv) == 2
        assert said in capsys.readouterr().err
    assert file.read_bytes() == data and sorted(tmp_path.iterdir()) == [link, file]
