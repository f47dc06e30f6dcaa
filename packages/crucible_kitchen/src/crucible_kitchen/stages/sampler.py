"""The sampler over the weights in training, opened anew when they have changed."""

from __future__ import annotations

from crucible_train.ports import SamplingClient, TrainingClient

__all__ = ["FreshSampler"]


class FreshSampler:
    """Hands out samplers by version of the weights; a version is opened once and shared.

    An older sampler is closed once nobody holds it, so that rollouts that began with it can end with it.
    """

    def __init__(self, session: TrainingClient) -> None:
        self._session = session
        self._open: dict[int, SamplingClient] = {}
        self._holders: dict[int, int] = {}
        self._newest = -1

    async def take(self, version: int) -> SamplingClient:
        """The sampler over the present weights, whose version (training steps submitted) the caller knows."""
        if version not in self._open:
            self._open[version] = await self._session.sampling_client()
            self._newest = max(self._newest, version)
        self._holders[version] = self._holders.get(version, 0) + 1
        await self._close_unused()
        return self._open[version]

    async def give_back(self, version: int) -> None:
        """One holder is done with the sampler of that version."""
        self._holders[version] -= 1
        await self._close_unused()

    async def aclose(self) -> None:
        """Close every sampler; closing twice is harmless."""
        self._holders.clear()
        self._newest = -1
        await self._close_unused()

    async def _close_unused(self) -> None:
        for version in [v for v in self._open if v != self._newest and not self._holders.get(v)]:
            await self._open.pop(version).close()
