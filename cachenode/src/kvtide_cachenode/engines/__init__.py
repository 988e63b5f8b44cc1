"""What runs inside an engine: it loads KV blocks from cache nodes and stores them there.

    vllm_connector ─► vllm_scheduler ─► lookup, trace_reporter ─┐
                 │          └─► request_state, namespace ─► adapter_files, model_digest
                 └──► vllm_worker ─► loading, storing ──────────┼─► node_set ─► node_connection
                          └─► block_layout, adapter_files       └─► container, block_keys
    sglang_hicache ─► lookup, loading, storing, sglang_names ─► model_digest

Only files named after an engine, and `block_layout`, know torch or an engine; the others are plain Python.
"""
