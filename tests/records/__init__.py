"""Tests of `owl_stream.records`: the same record means the same in a shard and on its way into one."""
