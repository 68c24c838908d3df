"""Which models there are, and room for a session on a worker."""

from __future__ import annotations

from protocol.bus import Bus
from protocol.errors import BadRequest, Starting, UnknownModel, UnknownPolicy
from protocol.messages import ModelCard, SessionSpec
from protocol.placement import WorkerState

SMALLEST_BUDGET_TOKENS = 64


class Board:
    """The workers as last seen. A model that no worker serves any more is remembered: its sessions may be waiting."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._cards: dict[str, ModelCard] = {}
        self.workers: tuple[WorkerState, ...] = ()

    async def refresh(self) -> None:
        """Call about once a second. Raises BusUnavailable."""
        self.workers = tuple(await self._bus.placement.workers())
        self._cards |= {worker.card.model.name: worker.card.model for worker in self.workers}

    def forget(self) -> None:
        """The bus came back without its data: workers are known again once they advertise there."""
        self.workers = ()

    def models(self) -> list[ModelCard]:
        """Models that a worker serves now, by name."""
        served = {worker.card.model.name: worker.card.model for worker in self.workers}
        return [served[name] for name in sorted(served)]

    async def served(self, model: str | None) -> ModelCard:
        """The card of ``model``, or of the only model there is. Raises Starting, UnknownModel, BadRequest."""
        await self.refresh()
        models = self.models()
        if not models:
            raise Starting("no worker is ready yet", retry_after=2.0)
        if model is None:
            if len(models) > 1:
                raise BadRequest("several models are served: name one", param="model")
            return models[0]
        for card in models:
            if card.name == model:
                return card
        raise UnknownModel("no worker serves this model", param="model")

    async def card(self, model: str) -> ModelCard:
        """The card of a session's model, whether or not a worker serves it now. Raises Starting."""
        if model not in self._cards:
            card = await self._bus.placement.model(model)
            if card is None:
                raise Starting("no worker of this session's model is ready yet", retry_after=2.0)
            self._cards[model] = card
        return self._cards[model]

    async def place(self, spec: SessionSpec, *, epoch: int = 0, newest_ms: int = -1) -> None:
        """Reserve room, write the session's record, and call the worker. ``epoch`` and ``newest_ms`` are those of a
        session that was on a bus before.

        Raises:
            NoCapacity, Starting, UnknownModel: nothing was changed.
        """
        worker_id = await self._bus.placement.reserve(spec.model, spec.session_id, spec.budget_tokens)
        try:
            await self._bus.sessions.open(spec, worker_id, epoch=epoch, newest_ms=newest_ms)
            await self._bus.placement.call(worker_id, spec.session_id)
        except BaseException:
            await self._bus.placement.vacate(worker_id, spec.model, spec.session_id, "closed")
            raise


def check_terms(card: ModelCard, fps: float, budget_tokens: int, policy: str) -> None:
    """Raises BadRequest, UnknownPolicy where the model cannot be used so."""
    if not 0 < fps <= card.max_fps:
        raise BadRequest(f"fps must be above 0 and at most {card.max_fps:g}", param="fps")
    if not SMALLEST_BUDGET_TOKENS <= budget_tokens <= card.max_budget_tokens:
        bounds = f"{SMALLEST_BUDGET_TOKENS} to {card.max_budget_tokens}"
        raise BadRequest(f"budget_tokens must be {bounds}", param="budget_tokens")
    if policy not in card.policies:
        raise UnknownPolicy(f"policies of this model: {', '.join(card.policies)}", param="policy")
