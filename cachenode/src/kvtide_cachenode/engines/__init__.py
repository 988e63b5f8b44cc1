"""What runs inside an engine: it loads KV blocks from cache nodes and stores them there.

    vllm_connector ─► vllm_scheduler ─► lookup, trace_reporter ─┐
                 └──► vllm_worker ─► loading, storing ──────────┼─► node_set ─► resp_client
                          └─► block_layout                      └─► container, block_keys
    sglang_hicache ─► lookup, loading, storing

Only files named after an engine, and `block_layout`, know torch or an engine; the others are plain Python.
"""
