"""Shards in an object store read like local ones: the same tensors, the same checks, only the bytes that are needed."""

import fsspec
import pytest
import torch

from fportrait.dataset.remote import upload
from fportrait.dataset.shards import ShardReader
from fportrait.errors import UserError
from helpers.small import shards


@pytest.fixture
def local(tmp_path):
    return shards(tmp_path / "shards")


@pytest.fixture
def url(tmp_path, local):
    address = f"memory://bucket-{tmp_path.name}/shards"
    upload(local.folder, address)
    return address


def test_a_store_gives_the_tensors_of_the_folder(local, url):
    remote = ShardReader(url)
    assert remote.hash == local.hash
    for dataset, records in local.records().items():
        for mine, theirs in zip(records, remote.records()[dataset], strict=True):
            for frames in (None, 5):
                one, two = local.read(mine, frames), remote.read(theirs, frames)
                assert one.keys() == two.keys()
                assert all(torch.equal(one[name], two[name]) for name in one)
            one, two = local.references(mine), remote.references(theirs)
            assert all(torch.equal(one[name], two[name]) for name in one)


def test_reading_a_record_fetches_only_its_bytes(url, monkeypatch):
    reader = ShardReader(url)
    record = reader.records()["PhoneCapture"][0]
    whole = reader._store.size(f"{reader._root}/{record.shard}")
    reader.references(record)  # opens the header
    fetched = []
    real = reader._store.cat_ranges
    monkeypatch.setattr(
        reader._store, "cat_ranges", lambda *args, **kw: fetched.extend(real(*args, **kw)) or fetched[-len(args[0]) :]
    )
    tensors = reader.read(record)
    needed = sum(tensor.nbytes for tensor in tensors.values())
    assert sum(map(len, fetched)) == needed < whole / 3


def test_a_byte_flipped_in_the_store_is_refused_by_name(url):
    reader = ShardReader(url)
    record = reader.records()["ViewSweep"][2]
    path = f"{reader._root}/{record.shard}"
    data = bytearray(reader._store.cat_file(path))
    header = 8 + int.from_bytes(data[:8], "little")
    for position in range(header, len(data), 64):  # every tensor of every record
        data[position] ^= 1
    reader._store.pipe_file(path, bytes(data))
    for touch in (reader.read, reader.references):
        with pytest.raises(UserError, match=r"ViewSweep/p0.*checksum"):
            touch(record)


def test_a_missing_or_truncated_shard_is_refused_by_name(url):
    reader = ShardReader(url)
    first, last = reader.records()["PhoneCapture"][0], reader.records()["PhoneCapture"][-1]
    reader._store.rm(f"{reader._root}/{first.shard}")
    path = f"{reader._root}/{last.shard}"
    reader._store.pipe_file(path, reader._store.cat_file(path)[:-4000])
    for record in (first, last):
        with pytest.raises(UserError, match=record.shard):
            for other in (r for r in reader.records()["PhoneCapture"] if r.shard == record.shard):
                reader.read(other)
                reader.references(other)


def test_an_unfinished_copy_and_an_unknown_protocol_are_refused(tmp_path, local):
    url = f"memory://bucket-{tmp_path.name}/part"
    upload(local.folder, url)
    fsspec.filesystem("memory").rm(url + "/index.parquet")
    with pytest.raises(UserError, match="encode"):
        ShardReader(url)
    with pytest.raises(UserError, match="s3fs"):
        ShardReader("nowhere://bucket/shards")


def test_an_s3_bucket_reads_like_the_folder(tmp_path, local, monkeypatch):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("portraits")
        upload(local.folder, "s3://portraits/shards")
        remote = ShardReader("s3://portraits/shards")
        assert remote.hash == local.hash
        record = remote.records()["ViewSweep"][3]
        one, two = local.read(local.records()["ViewSweep"][3]), remote.read(record)
        assert all(torch.equal(one[name], two[name]) for name in one)
    finally:
        server.stop()
