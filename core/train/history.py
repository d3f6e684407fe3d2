"""The losses of a run, kept beside the events that carry them."""

from dataclasses import dataclass, field

from ..events import Event, OnEvent, StepDone


@dataclass(slots=True)
class History:
    """Loss and learning rate of each step; a resumed run begins with those it already has."""

    losses: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)

    def listening(self, on_event: OnEvent) -> OnEvent:
        """`on_event`, with each step noted on the way."""

        def note(event: Event) -> None:
            if isinstance(event, StepDone):
                self.losses.append(event.loss)
                self.lrs.append(event.lr)
            on_event(event)

        return note
