"""The store: what is put is got, by whomever; what is torn is a miss; old packs go first."""

import multiprocessing
import os
import time

import pytest
import torch

from holdfast.cache import open_store
from holdfast.cache.packs import packs
from holdfast.cache.store import Store


def value(n, size=100, dtype=torch.float32):
    return torch.arange(size).to(dtype) + n


def keys(n):
    return [f"{i:032x}" for i in range(n)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_a_second_store_reads_what_the_first_wrote(tmp_path, dtype):
    first = Store(tmp_path)
    tensors = {k: value(i, dtype=dtype).reshape(4, 25) for i, k in enumerate(keys(5))}
    tensors["empty"] = torch.zeros(0, 3, dtype=dtype)
    for key, tensor in tensors.items():
        first.put(key, tensor)
    first.flush()
    second = Store(tmp_path)
    for key, tensor in tensors.items():
        got = second.get(key)
        assert got.dtype == dtype
        assert torch.equal(got, tensor)
    assert second.get("unknown") is None
    assert len(packs(tmp_path)) == 1, "many tensors are one file"


def test_a_store_that_was_open_before_sees_what_comes(tmp_path):
    late, early = Store(tmp_path), Store(tmp_path)
    assert early.get("a" * 32) is None
    late.put("a" * 32, value(1))
    late.flush()
    assert torch.equal(early.get("a" * 32), value(1))


def test_what_was_put_is_a_copy():
    store, tensor = Store(), value(0)
    store.put("a", tensor)
    tensor.zero_()
    assert torch.equal(store.get("a"), value(0))


def test_memory_is_bounded_and_the_least_read_goes_first():
    store = Store(memory=4 * 400)
    for i, key in enumerate(keys(4)):
        store.put(key, value(i))
    store.get(keys(4)[0])
    store.put("new", value(9))
    assert store.get(keys(4)[0]) is not None
    assert store.get(keys(4)[1]) is None
    assert "new" in store


def test_the_disk_is_bounded_and_the_longest_unused_pack_goes_first(tmp_path):
    for i, key in enumerate(keys(3)):
        store = Store(tmp_path)
        store.put(key, value(i, 200))
        store.flush()
        for path in packs(tmp_path):
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**12))
    room = 3 * max(p.stat().st_size for p in packs(tmp_path))
    reader = Store(tmp_path, memory=0)
    assert reader.get(keys(3)[0]) is not None  # used now: the second is the oldest
    last = Store(tmp_path, limit=room)
    last.put("f" * 32, value(7, 200))
    last.flush()
    fresh = Store(tmp_path)
    left = [fresh.get(k) is not None for k in (*keys(3), "f" * 32)]
    assert left == [True, False, True, True]
    assert sum(p.stat().st_size for p in packs(tmp_path)) <= room


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "foreign", "gone"])
def test_a_damaged_pack_is_a_miss_and_is_written_again(tmp_path, harm):
    first = Store(tmp_path)
    first.put("a", value(1))
    first.flush()
    (path,) = packs(tmp_path)
    data = path.read_bytes()
    damaged = {
        "cut": data[:-7],
        "empty": b"",
        "flipped": data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        "foreign": b"not a pack",
    }
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[harm])
    second = Store(tmp_path)
    assert second.get("a") is None
    second.put("a", value(1))
    second.flush()
    assert torch.equal(Store(tmp_path).get("a"), value(1))


def test_what_a_killed_process_left_is_swept(tmp_path):
    part = tmp_path / "x.safetensors.part"
    part.write_bytes(b"half")
    os.utime(part, (time.time() - 7200,) * 2)
    store = Store(tmp_path)
    store.put("a", value(1))
    store.flush()
    assert not part.exists()


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "cache")
    store.put("a", value(1))
    store.flush()
    assert torch.equal(store.get("a"), value(1))
    assert "is not written any more" in caplog.text


def _write(folder, offset, n):
    torch.set_num_threads(1)
    store = Store(folder)
    for i in range(n):
        store.put(f"{i + offset:032x}", value(i + offset))
        if i % 7 == 0:
            store.flush()
    store.flush()


def test_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path, 30 * k, 60)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    store = Store(tmp_path)
    for i in range(90):
        assert torch.equal(store.get(f"{i:032x}"), value(i)), i


def test_where_the_store_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_CACHE", "off")
    assert open_store("auto") is None
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "named"))
    assert open_store("auto", small=True).folder == tmp_path / "named"
    assert open_store(str(tmp_path / "given")).folder == tmp_path / "given"
    assert open_store("off") is None
    monkeypatch.delenv("HOLDFAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_store("auto").folder == tmp_path / "holdfast" / "tensors"
    assert open_store("auto", small=True).folder is None
    assert open_store("auto") is open_store("auto")
