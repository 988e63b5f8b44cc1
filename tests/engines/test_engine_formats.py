"""Keys, containers, digests and options: what is written must be read, and nothing else."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvtide_cachenode.access_trace.block_names import canonical
from kvtide_cachenode.engines.block_keys import all_ranks, names, trace_ids
from kvtide_cachenode.engines.container import HEADER_BYTES, ContainerError, Qualities, header, read
from kvtide_cachenode.engines.model_digest import WeightsError, digest, is_commit, model_weights
from kvtide_cachenode.engines.namespace import model_digest
from kvtide_cachenode.engines.options import Options, OptionsError, read_options
from kvtide_cachenode.engines.tally import COUNTERS
from kvtide_cachenode.placement.depth import depth_in_key, root_in_key, root_of

HASHES = [bytes([depth]) * 32 for depth in range(4)]


def value_of(key, payload, qualities=Qualities()):  # noqa: B008 - an immutable default
    return bytearray(header(key, memoryview(payload), qualities) + payload)


def test_a_key_says_depth_and_root_and_ranks_fold():
    chain = names(b"kvt:m:l", HASHES, 1, 0, 4)
    keys = [[name.key(rank) for rank in all_ranks(2, 1)] for name in chain]
    assert [depth_in_key(key) for key, _ in keys] == [0, 1, 2, 3]
    # Above the branching depth a block is its own root, below it the branch's.
    above, branch = (root_of(block_id).encode() for block_id in trace_ids(HASHES[:2], []))
    assert [root_in_key(key) for key, _ in keys] == [above, branch, branch, branch]
    assert all(canonical(one) == canonical(other) and one != other for one, other in keys)
    assert keys[2][1] == b"kvt:m:l:1-2x1:%b:2:%b" % (branch, b"02" * 32)


def test_names_of_a_part_are_a_part_of_the_names():
    assert names(b"h", HASHES, 2, 1, 3) == names(b"h", HASHES, 2, 0, 4)[1:3]


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=5), st.lists(st.integers(0, 2**31), max_size=9))
def test_trace_ids_are_exact_in_json_and_count_every_block(hashes, rest):
    ids = trace_ids(hashes, rest)
    assert all(0 <= block < 2**53 for block in ids)
    assert len(ids) == len(hashes) + bool(rest)


def test_trace_ids_of_other_tails_differ():
    assert trace_ids(HASHES, [1, 2]) != trace_ids(HASHES, [1, 3])
    assert trace_ids(HASHES, [1])[:4] == trace_ids(HASHES, [])


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=256), st.floats(0, 1, width=32))
def test_a_container_gives_back_its_qualities(key, payload, lineage):
    value = value_of(key, payload, Qualities(0.5, lineage))
    assert read(key, memoryview(value), len(payload)) == Qualities(0.5, lineage)
    assert read(key, memoryview(value), len(payload)).lowest == min(0.5, lineage)


@given(st.data())
def test_any_changed_bit_is_seen(data):
    payload = data.draw(st.binary(min_size=1, max_size=64))
    value = value_of(b"key", payload)
    at = data.draw(st.integers(0, len(value) * 8 - 1))
    value[at // 8] ^= 1 << at % 8
    with pytest.raises(ContainerError):
        read(b"key", memoryview(value), len(payload))


def test_another_blocks_value_and_another_length_are_seen():
    value = value_of(b"one", b"x" * 64)
    with pytest.raises(ContainerError, match="checksum"):
        read(b"two", memoryview(value), 64)
    with pytest.raises(ContainerError, match="96 bytes instead of 95"):
        read(b"one", memoryview(value), 63)


def test_the_header_by_hand():
    plain = b"KVT1" + struct.pack("<HHQff", 0, 0, 3, 1.0, 0.25) + bytes(4)
    checksum = zlib.crc32(b"abc", zlib.crc32(plain, zlib.crc32(b"key")))
    assert header(b"key", memoryview(b"abc"), Qualities(1.0, 0.25)) == plain + checksum.to_bytes(4, "little")
    assert HEADER_BYTES == 32


def write_weights(path, tensors):
    offsets, data = {"__metadata__": {"format": "pt"}}, b""
    for name, content in tensors.items():
        offsets[name] = {
            "dtype": "U8",
            "shape": [len(content)],
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    head = json.dumps(offsets).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def test_the_digest_tells_weights_and_configurations_apart(tmp_path):
    seen = set()
    for number, (last, layers) in enumerate([(b"a", 2), (b"b", 2), (b"a", 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_weights(folder / "model.safetensors", {"first": bytes(50_000), "last": last * 9_000})
        facts = {"layers": layers, "_name_or_path": str(folder)}
        seen.add(digest(facts, folder, 16))
        again = tmp_path / f"copy-{number}"
        folder.rename(again)
        assert digest(facts | {"_name_or_path": "elsewhere"}, again, 16) in seen
    assert len(seen) == 3


def zip_of(records):
    """As torch.save writes them: a zip archive, nothing compressed, the same time in every record."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def changed(content, at):
    content = bytearray(content)
    content[at] ^= 1
    return bytes(content)


SAFE = {"first": bytes(50_000), "last": bytes(9_000)}
ZIPPED = zip_of({"archive/data/0": bytes(90_000), "archive/data/1": bytes(50)})


@pytest.mark.parametrize("at", [0, 25_000, 49_999])
def test_a_tensor_is_looked_at_in_several_places(tmp_path, at):
    write_weights(tmp_path / "model.safetensors", SAFE)
    before = digest({}, tmp_path, 16)
    write_weights(tmp_path / "model.safetensors", SAFE | {"first": changed(SAFE["first"], at)})
    assert digest({}, tmp_path, 16) != before


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        # A zip archive has a checksum of every record; what is none is read whole.
        (ZIPPED, zip_of({"archive/data/0": changed(bytes(90_000), 12_345), "archive/data/1": bytes(50)})),
        (ZIPPED, zip_of({"archive/data/0": bytes(90_000), "archive/data/1": changed(bytes(50), 3)})),
        (bytes(3_000_000), changed(bytes(3_000_000), 1_234_567)),
    ],
)
def test_weights_of_pytorch_are_weights_too(tmp_path, name, before, after):
    seen = set()
    for content in (before, after, before):
        (tmp_path / name).write_bytes(content)
        assert model_weights(str(tmp_path)) == tmp_path
        seen.add(digest({}, tmp_path, 16))
    assert len(seen) == 2


def test_a_revision_says_which_weights_only_as_a_commit(tmp_path):
    assert is_commit("0123456789abcdef" * 2 + "01234567")
    assert not any(is_commit(revision) for revision in (None, "main", "v1.0", "0123456", "g" * 40))
    facts = {"dtype": "bf16"}
    commits = ["a" * 40, "b" * 40, "a" * 40]
    assert len({model_digest("org/model", commit, facts, "process") for commit in commits}) == 2
    for revision in (None, "main"):
        one, other = (model_digest("org/model", revision, facts, process) for process in ("one", "other"))
        assert one != other


@pytest.mark.parametrize("damage", ["header", "link"])
def test_a_model_that_cannot_be_read_is_this_engines_alone(tmp_path, caplog, damage):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff" * 100) if damage == "header" else path.symlink_to(tmp_path / "nowhere")
    assert model_digest(str(tmp_path), "a" * 40, {}, "one") != model_digest(
        str(tmp_path), "a" * 40, {}, "two"
    )
    assert "model.safetensors" in caplog.text
    assert "model_id" in caplog.text


def test_damaged_weights_are_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        digest({}, tmp_path, 16)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({}, "missing required field `nodes`"),
        ({"nodes": "cache-0"}, r"'cache-0' is not host:port"),
        ({"nodes": "cache-0:99999999"}, "is not host:port"),
        ({"nodes": "a:1", "node": "b:1"}, "unknown field `node`; known options: nodes, "),
        ({"nodes": "a:1", "load_timeout_s": 0}, "Expected `float` > 0"),
        ({"nodes": "a:1", "store_buffer": "lots"}, "store_buffer: 'lots' is not a quantity"),
        ({"nodes": "a:1", "username": "engine"}, "username without password_file"),
        ({"nodes": "a:1", "password_file": "/nowhere/p"}, "/nowhere/p cannot be read"),
    ],
)
def test_a_wrong_option_gets_one_sentence(extra, sentence):
    with pytest.raises(OptionsError, match=sentence) as raised:
        read_options(extra, "extra")
    assert "\n" not in str(raised.value)


def test_options_in_full(tmp_path):
    (tmp_path / "p").write_text("secret\n")
    extra = {
        "nodes": "a:1, [::1]:2",
        "username": "u",
        "password_file": str(tmp_path / "p"),
        "store_buffer": "1Mi",
    }
    options = read_options(extra, "extra")
    assert options.addresses() == [("a", 1), ("::1", 2)]
    assert (options.password(), options.store_buffer_bytes()) == ("secret", 1 << 20)


def test_the_manual_names_every_option_and_counter():
    manual = (Path(__file__).parents[2] / "docs/engines/vllm.md").read_text()
    absent = [name for name in (*Options.__struct_fields__, *COUNTERS) if f"`{name}`" not in manual]
    assert not absent
