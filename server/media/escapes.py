"""What a decoder process of this machine could do that it must not, as it tells itself."""

from __future__ import annotations

from server.media.decoders import Nursery
from server.media.jobs import Probe, Probed, Setup

DEADLINE_S = 10.0
SETUP = Setup(width=16, height=16, fps=1.0, quality=90, max_pixels=256, memory_bytes=256 << 20, cpu_seconds=5)


async def escapes(*, unsafe: bool = False) -> list[str]:
    """Start a decoder and let it try. Nothing is possible in a good one; all is, with ``unsafe``.

    Raises:
        NoSandbox: decoders cannot be confined here.
        DecoderLost: the decoder did not answer.
    """
    async with Nursery(unsafe=unsafe) as nursery:
        decoder = await nursery.spawn(SETUP)
        try:
            found = [result async for result in decoder.run(Probe(), DEADLINE_S)]
        finally:
            await decoder.close()
    return [name for result in found if isinstance(result, Probed) for name in result.possible]
