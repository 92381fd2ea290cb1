"""A manifest for packages that are only written, never run."""

from pagedc.runtime.manifest import KVCache, Limits, Manifest, Memory, Model, Target


def manifest(name: str = "Tiny-1B") -> Manifest:
    return Manifest(
        schema_version=1,
        pagedc_version="0.1.0",
        abi_version=1,
        model=Model(
            name=name,
            model_type="llama",
            num_parameters=10**9,
            num_layers=2,
            vocab_size=96,
            max_model_len=128,
        ),
        target=Target(kind="cpu", arch="x86_64", level="native", cpu_features=[], device_name="a CPU"),
        dtype="bfloat16",
        quantization="none",
        program="kernels/model.so",
        kv_cache=KVCache(dtype="bfloat16", block_size=16, bytes_per_block=1 << 20),
        limits=Limits(max_model_len=128, max_num_seqs=4, max_num_batched_tokens=64),
        memory=Memory(weights_bytes=1 << 30, arena_bytes_per_token=1000, logits_bytes_per_row=400),
        weights=[],
        files={},
    )
