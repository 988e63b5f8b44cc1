"""What runs inside an engine: it loads KV blocks from cache nodes and stores them there.

    vllm/connector ─► vllm/scheduler ─► lookup, trace_reporter ─┐
                 │          └─► request_state, namespace ─► adapter_files, model_digest
                 └──► vllm/worker ─► loading, storing ──────────┼─► node_set ─► node_connection
                          └─► block_layout, adapter_files       └─► container, block_keys
    sglang/hicache ─► lookup, loading, storing, sglang/names ─► model_digest

Only `vllm/`, `sglang/` and `block_layout` know torch or an engine; the others are plain Python.
"""
