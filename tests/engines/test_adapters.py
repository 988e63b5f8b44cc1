"""Which adapter a block was computed with: never another one's bytes, and nothing where it is not known."""

import json
import logging
import os
import threading
from dataclasses import dataclass

import pytest

from kvtide_cachenode.engines import adapter_files
from kvtide_cachenode.engines.adapter_files import AdapterFiles
from kvtide_cachenode.engines.model_digest import WeightsError
from kvtide_cachenode.engines.namespace import Namespace

WEIGHTS = "adapter_model.safetensors"


@dataclass
class Lora:
    """What vLLM's `LoRARequest` says, by its names."""

    lora_name: str
    lora_int_id: int
    lora_path: str
    load_inplace: bool = False


def write(folder, weights=b"red" * 1000, alpha=16, name=WEIGHTS):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": alpha}))
    (folder / name).write_bytes(weights)
    return str(folder)


@pytest.fixture
def namespace():
    namespace = Namespace("0123456789abcdef", "layout")
    yield namespace
    namespace.close()


def head(namespace, lora):
    return namespace.head(lora).result(10)


def test_adapters_have_heads_of_their_own(namespace, tmp_path):
    red, blue = (
        Lora(name, number, write(tmp_path / name, name.encode() * 99))
        for number, name in enumerate(("red", "blue"), 1)
    )
    names = {head(namespace, lora).name for lora in (None, red, blue)}
    assert len(names) == 3
    assert all(name.startswith(b"kvt:") and name.endswith(b":layout") for name in names)
    assert not any(head(namespace, lora).is_replaced for lora in (None, red, blue))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": b"new" * 1000},  # the same size
        {"alpha": 32},
        {"name": "adapter_model.bin", "weights": b"PK?" * 9},
        {"name": "adapter_model.pt"},
    ],
)
@pytest.mark.parametrize("again", [{"load_inplace": True}, {"lora_int_id": 2}])
def test_an_adapter_replaced_under_its_name_and_path_gets_another_head(namespace, tmp_path, change, again):
    path = write(tmp_path / "red")
    before = head(namespace, Lora("red", 1, path))
    write(tmp_path / "red", **change)
    after = head(namespace, Lora(**{"lora_name": "red", "lora_int_id": 1, "lora_path": path} | again))
    assert after.name != before.name
    assert (before.is_replaced, after.is_replaced) == (False, True)
    # Once replaced, vLLM's own cache may hold blocks of both for ever.
    assert head(namespace, Lora("red", 3, path)).is_replaced


def test_the_same_adapter_loaded_anew_keeps_its_head(namespace, tmp_path):
    before = head(namespace, Lora("red", 1, write(tmp_path / "red")))
    write(tmp_path / "red")
    assert head(namespace, Lora("red", 2, str(tmp_path / "red"))) == before
    # Another engine, another folder: what counts is what is in it.
    other = Namespace("0123456789abcdef", "layout")
    assert head(other, Lora("rouge", 7, write(tmp_path / "rouge"))).name == before.name
    other.close()


def test_files_that_change_under_a_loaded_adapter_say_nothing_of_what_vllm_computes(
    namespace, tmp_path, caplog
):
    path = write(tmp_path / "red")
    assert head(namespace, Lora("red", 1, path)) is not None
    write(tmp_path / "red", b"new" * 1000)
    assert head(namespace, Lora("red", 1, path)) is None
    assert head(namespace, Lora("red", 1, path)) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "load it anew" in caplog.text
    # Back as they were: but vLLM may have read what was there meanwhile.
    write(tmp_path / "red")
    assert head(namespace, Lora("red", 1, path)) is None
    assert head(namespace, Lora("red", 2, path)).is_replaced


def test_one_number_for_two_adapters_is_the_first_of_them(namespace, tmp_path):
    assert head(namespace, Lora("red", 1, write(tmp_path / "red"))) is not None
    assert head(namespace, Lora("blue", 1, write(tmp_path / "blue", b"blue"))) is None


@pytest.mark.parametrize("damage", ["a dangling link", "no folder", "no weights", "no configuration", "hub"])
def test_what_cannot_be_read_is_not_shared_and_said_once(namespace, tmp_path, caplog, damage):
    path = write(tmp_path / "red")
    folder = tmp_path / "red"
    if damage == "a dangling link":
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(tmp_path / "nowhere")
    elif damage == "no weights":
        (folder / WEIGHTS).unlink()
    elif damage == "no configuration":
        (folder / "adapter_config.json").unlink()
    else:
        path = "some/adapter" if damage == "hub" else str(tmp_path / "nothing")
    for number in (1, 1, 2):
        assert head(namespace, Lora("red", number, path)) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "adapter red" in record.message
    assert "readable local folder" in record.message
    assert "\n" not in record.message


def test_the_scheduler_never_waits_for_files(namespace, tmp_path, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()

    def read_slowly(file, hasher):
        reading.set()
        assert go_on.wait(10)

    monkeypatch.setattr(adapter_files, "read_whole", read_slowly)
    path = write(tmp_path / "red")
    first = namespace.head(Lora("red", 1, path))
    assert reading.wait(10)
    assert not first.done()
    # Those that come meanwhile share one look at the files.
    assert len({id(namespace.head(Lora("red", 1, path))) for _ in range(50)}) == 1
    assert namespace.head(None).done()
    go_on.set()
    assert first.result(10) is not None


def test_new_weights_of_the_model_give_all_new_heads(namespace, tmp_path):
    lora = Lora("red", 1, write(tmp_path / "red"))
    before = [head(namespace, one) for one in (None, lora)]
    namespace.renew()
    after = [head(namespace, one) for one in (None, lora)]
    assert len({one.name for one in before + after}) == 4
    assert all(one.is_replaced for one in after)


def test_what_changes_within_a_tick_of_the_clock_is_seen(tmp_path):
    path = write(tmp_path / "red")
    files = AdapterFiles()
    seen = set()
    stamp = (tmp_path / "red" / WEIGHTS).stat()
    for number in range(20):
        # In place: the same inode, size and, as far as can be told, time.
        with (tmp_path / "red" / WEIGHTS).open("r+b") as file:
            file.write(b"%03d" % number)
        os.utime(tmp_path / "red" / WEIGHTS, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        seen.add(files.digest(path))
    assert len(seen) == 20


def test_what_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_files, "SETTLED_S", -10.0)
    path = write(tmp_path / "red")
    files = AdapterFiles()
    before = files.digest(path)
    monkeypatch.setattr(adapter_files, "read_whole", None)
    assert files.digest(path) == before


def test_files_that_change_while_they_are_read_have_no_digest(tmp_path, monkeypatch):
    path = write(tmp_path / "red")
    read = adapter_files.read_whole

    def read_and_change(file, hasher):
        read(file, hasher)
        write(tmp_path / "red", os.urandom(50))

    monkeypatch.setattr(adapter_files, "read_whole", read_and_change)
    with pytest.raises(WeightsError, match="changes while it is read"):
        AdapterFiles().digest(path)


def test_what_is_known_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_files, "SETTLED_S", -10.0)
    monkeypatch.setattr(adapter_files, "MAX_ADAPTERS", 3)
    files = AdapterFiles()
    paths = [write(tmp_path / str(number), b"%d" % number) for number in range(6)]
    assert len({files.digest(path) for path in paths}) == 6
    assert len(files._known) == 3
