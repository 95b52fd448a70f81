"""Run a batch in shards on a Ray cluster, as any program that ``ray.init`` lets in.

Call it again to go on. The paths are on a disk that every node sees and locks.
"""

from pathlib import Path

import ray

from imagen_async import Limits
from imagen_async.batch.merge import merge
from imagen_async.integrations.ray import ClientConfig, run_shards

client = ClientConfig(
    # base_url="https://gateway.example/v1",  # else IMAGEN_BASE_URL
    api_key_env="IMAGEN_API_KEY",  # the name of the variable, which every node has
    model="imagen4",
    limits=Limits(concurrency=16, requests_per_minute=3000),  # the rate of all workers together
)

if __name__ == "__main__":
    ray.init()
    run_shards("prompts.jsonl", "images", shards=64, client=client, on_progress=print)
    print(merge(Path("images")).report)
