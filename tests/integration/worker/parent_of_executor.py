"""A worker reduced to its executor, for a test that kills it: prints the executor's process id once a model computes.

Arguments: a folder to work in, and the body of the model's ``predict``, which must make a file ``computing`` there.
"""

import asyncio
import sys
from pathlib import Path

from tests.support.executors import running_executor, users_model


async def main(folder: Path, predict: str) -> None:
    async with running_executor() as executor:
        await executor.load(users_model(folder, predict))
        call = asyncio.create_task(executor.run("users", [{"path": str(folder / "computing")}]))
        while not (folder / "computing").exists():  # noqa: ASYNC110 - it is another process that makes the file
            await asyncio.sleep(0.01)
        print(executor.pid, flush=True)
        await call


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
